//! Who else could have written the file: one that decides what root records must not be anybody's.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};

const BY_EVERYONE: u32 = 0o002;
/// In a folder: what lies in it belongs to whom it belongs.
const STICKY: u32 = 0o1000;

/// What is wrong with it, where everyone can write it or put another in its place.
pub fn complaint(path: &Path, file: &Metadata) -> Option<String> {
    if file.mode() & BY_EVERYONE != 0 {
        return Some(
            "everyone can write it: take that away with `chmod o-w`, as it decides what is recorded".to_owned(),
        );
    }
    // Where it is a link, both its own folder and that of what it leads to.
    let folder = |path: &Path| path.parent().map(|folder| if folder == "" { ".".into() } else { folder.to_owned() });
    let led_to = fs::canonicalize(path).ok();
    let folders = [folder(path), led_to.as_deref().and_then(folder)];
    let open = folders.into_iter().flatten().find(|folder| can_everyone_replace(folder))?;
    Some(format!(
        "everyone can put another file in its place: take that away with `chmod o-w {}`, as it decides what is recorded",
        open.display()
    ))
}

fn can_everyone_replace(folder: &Path) -> bool {
    let is_open = fs::metadata(folder).is_ok_and(|found| found.mode() & (BY_EVERYONE | STICKY) == BY_EVERYONE);
    // Kubernetes mounts a ConfigMap like that: its folder is open to everyone, and nobody can write to it.
    let is_read_only = || statvfs(folder).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    is_open && !is_read_only()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn complaint_of(path: &Path) -> String {
        complaint(path, &File::open(path).unwrap().metadata().unwrap()).unwrap_or_default()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_everyone_can_write_or_replace_is_complained_of() {
        let folder = std::env::temp_dir().join(format!("sidetap-guard-{}", std::process::id()));
        let (inner, outer) = (folder.join("inner"), folder.join("outer"));
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir_all(&outer).unwrap();
        let (file, link) = (inner.join("a.yaml"), outer.join("link.yaml"));
        fs::write(&file, "version: 2").unwrap();
        symlink(&file, &link).unwrap();
        for (mode_of_file, mode_of_inner, mode_of_outer, of_file, of_link) in [
            (0o644, 0o755, 0o755, "", ""),
            (0o664, 0o775, 0o775, "", ""),
            (0o646, 0o755, 0o755, "everyone can write it", "everyone can write it"),
            (0o644, 0o777, 0o755, "/inner`", "/inner`"),
            (0o644, 0o755, 0o777, "", "/outer`"),
            (0o644, 0o1777, 0o1777, "", ""),
        ] {
            set_mode(&file, mode_of_file);
            set_mode(&inner, mode_of_inner);
            set_mode(&outer, mode_of_outer);
            for (path, expected) in [(&file, of_file), (&link, of_link)] {
                let complaint = complaint_of(path);
                assert!(complaint.contains(expected), "{complaint}");
                assert_eq!(complaint.is_empty(), expected.is_empty(), "{path:?} {mode_of_file:o}: {complaint}");
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_name_without_a_folder_is_in_this_one() {
        // Cargo runs tests in the package's folder.
        assert_eq!(complaint_of(Path::new("Cargo.toml")), "");
    }
}
