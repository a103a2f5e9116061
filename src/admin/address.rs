//! Where the admin listener is: an address of this machine, a Unix socket, or nowhere.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    None,
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if text == "none" {
            return Ok(Address::None);
        }
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok(Address::Tcp((Ipv4Addr::LOCALHOST, port).into()));
        }
        let hint =
            "neither an address with a port (127.0.0.1:10001, [::1]:10001), nor the path of a Unix socket, nor none";
        text.parse().map(Address::Tcp).map_err(|_| hint.to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::None => f.write_str("none"),
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Listens at an address.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Goes with it.
        _file: SocketFile,
    },
}

/// Someone who has connected.
pub(super) enum Peer {
    /// `is_near`: from this machine's loopback.
    Tcp {
        stream: TcpStream,
        is_near: bool,
    },
    Unix(UnixStream),
}

impl Listener {
    /// Within a tokio runtime.
    pub(super) fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::None => Err(ErrorKind::Unsupported.into()),
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Listener::Tcp)
            }
            Address::Unix(path) => {
                let (listener, _file) = SocketFile::listen(path)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix { listener: UnixListener::from_std(listener)?, _file })
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Peer> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok(Peer::Tcp { stream, is_near: from.ip().to_canonical().is_loopback() })
            }
            Listener::Unix { listener, .. } => Ok(Peer::Unix(listener.accept().await?.0)),
        }
    }
}

/// The file of a Unix socket, which goes with the listener unless it has become another's.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// For the agent's user alone. Takes the place of a socket that nobody listens at any more.
    fn listen(path: &Path) -> io::Result<(std::os::unix::net::UnixListener, SocketFile)> {
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file of that name that is no socket"));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ErrorKind::AddrInUse.into());
            }
        }
        // Under another name until only its user can connect.
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", std::process::id()));
        let hidden = PathBuf::from(hidden);
        let _ = fs::remove_file(&hidden);
        let listener = std::os::unix::net::UnixListener::bind(&hidden)?;
        let file = SocketFile { inode: fs::symlink_metadata(&hidden)?.ino(), path: path.to_owned() };
        let placed =
            fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).and_then(|()| fs::rename(&hidden, path));
        if placed.is_err() {
            let _ = fs::remove_file(&hidden);
        }
        placed.map(|()| (listener, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        for (text, address) in [
            ("none", Address::None),
            ("127.0.0.1:10001", Address::Tcp("127.0.0.1:10001".parse().unwrap())),
            ("[::]:80", Address::Tcp("[::]:80".parse().unwrap())),
            ("localhost:80", Address::Tcp("127.0.0.1:80".parse().unwrap())),
            ("/run/sidetap.sock", Address::Unix("/run/sidetap.sock".into())),
            ("./s", Address::Unix("./s".into())),
        ] {
            assert_eq!(text.parse(), Ok(address));
        }
        for wrong in ["", "10001", ":10001", "127.0.0.1", "example.com:80", "localhost:x", "127.0.0.1:70000"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_the_listener() {
        let folder = std::env::temp_dir().join(format!("sidetap-admin-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("admin.sock");
        let (first, file) = SocketFile::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(SocketFile::listen(&path).err().unwrap().kind(), ErrorKind::AddrInUse, "somebody listens");
        // As after a SIGKILL: the file stays, and nobody listens.
        drop(first);
        let (_second, newer) = SocketFile::listen(&path).unwrap();
        drop(file);
        assert!(path.exists(), "it is another's now");
        drop(newer);
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        assert_eq!(SocketFile::listen(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        fs::remove_dir_all(&folder).unwrap();
    }
}
