//! Keys from the file in which Amazon's tools keep them (`~/.aws/credentials`), by profile.

use std::fs;
use std::path::PathBuf;

pub(super) struct Keys {
    pub(super) access: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

/// The keys of `AWS_PROFILE`, else of `default`; none where there is no such file, profile or pair of keys.
pub(super) fn keys(environment: &dyn Fn(&str) -> Option<String>) -> Option<Keys> {
    let path = environment("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let path = path.or_else(|| Some(PathBuf::from(environment("HOME")?).join(".aws/credentials")))?;
    let profile = environment("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    read(&fs::read_to_string(path).ok()?, &profile)
}

fn read(text: &str, profile: &str) -> Option<Keys> {
    let (mut access, mut secret, mut token) = (None, None, None);
    let mut is_here = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_here = name.trim() == profile;
        } else if let Some((name, value)) = line.split_once('=').filter(|_| is_here) {
            let value = Some(value.trim().to_owned());
            match name.trim() {
                "aws_access_key_id" => access = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Keys { access: access?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::Folder;

    const FILE: &str = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n[ci]\nregion = x\n\
                        aws_access_key_id = C\naws_secret_access_key = D\naws_session_token = E\n[half]\naws_access_key_id = F\n";

    #[test]
    fn profiles() {
        let folder = Folder::new("profile");
        fs::create_dir(folder.0.join(".aws")).unwrap();
        fs::write(folder.0.join(".aws/credentials"), FILE).unwrap();
        let home = folder.0.to_str().unwrap().to_owned();
        let keys = |profile: Option<&str>| {
            let keys = keys(&|name| match name {
                "HOME" => Some(home.clone()),
                "AWS_PROFILE" => profile.map(str::to_owned),
                _ => None,
            });
            keys.map(|keys| (keys.access, keys.secret, keys.token))
        };
        assert_eq!(keys(None), Some(("A".into(), "B=".into(), None)));
        assert_eq!(keys(Some("ci")), Some(("C".into(), "D".into(), Some("E".into()))));
        assert_eq!((keys(Some("half")), keys(Some("none"))), (None, None));
    }
}
