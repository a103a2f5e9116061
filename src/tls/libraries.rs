//! Which library a process uses, by where its secrets were seen.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// The most processes that are known: beyond, all are forgotten, and come to be known again by their next handshakes.
const MOST: usize = 16_384;

/// A library of TLS, or several with the same functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// Of version 3.
    OpenSsl,
    /// OpenSSL 1.1.1.
    OpenSsl11,
    GnuTls,
    Go,
    /// Or AWS-LC.
    BoringSsl,
}

impl Library {
    pub const ALL: [Library; 5] =
        [Library::OpenSsl, Library::OpenSsl11, Library::GnuTls, Library::Go, Library::BoringSsl];

    pub fn name(self) -> &'static str {
        match self {
            Library::OpenSsl => "openssl",
            Library::OpenSsl11 => "openssl-1.1",
            Library::GnuTls => "gnutls",
            Library::Go => "go",
            Library::BoringSsl => "boringssl",
        }
    }
}

/// By process. Two ends on this machine derive the same secrets, so that these do not say whose library it was.
#[derive(Debug, Default)]
pub struct Libraries {
    known: RwLock<HashMap<u32, Seen>>,
}

#[derive(Debug)]
struct Seen {
    /// When it was last found out.
    time: u64,
    /// None: several, of which nothing says which one a connection has.
    library: Option<Library>,
}

impl Libraries {
    /// A process was seen deriving a secret at that time.
    pub fn saw(&self, pid: u32, library: Library, time: u64) {
        if self.of(pid) == Some(library) {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST && !known.contains_key(&pid) {
            known.clear();
        }
        let seen = known.entry(pid).or_insert(Seen { time, library: Some(library) });
        *seen = Seen { time, library: seen.library.filter(|one| *one == library) };
    }

    /// The only library that a process was seen using. Of one that has ended it is still known: its last bytes may be on
    /// the way.
    pub fn of(&self, pid: u32) -> Option<Library> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&pid)?.library
    }

    /// A program began in that process: what was seen before it was another one.
    pub fn began(&self, pid: u32, time: u64) {
        let is_older = |known: &HashMap<u32, Seen>| known.get(&pid).is_some_and(|seen| seen.time < time);
        // Most are not known, and that keeps nobody else from looking.
        if is_older(&self.known.read().unwrap_or_else(PoisonError::into_inner)) {
            self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_the_library_that_it_was_seen_using() {
        let libraries = Libraries::default();
        libraries.saw(1, Library::OpenSsl, 10);
        libraries.saw(1, Library::OpenSsl, 10);
        libraries.saw(2, Library::GnuTls, 10);
        assert_eq!([1, 2, 3].map(|pid| libraries.of(pid)), [Some(Library::OpenSsl), Some(Library::GnuTls), None]);
        libraries.began(1, 5);
        libraries.began(2, 15);
        assert_eq!([1, 2].map(|pid| libraries.of(pid)), [Some(Library::OpenSsl), None]);
    }

    #[test]
    fn of_two_libraries_nobody_knows_which_one_it_is() {
        let libraries = Libraries::default();
        libraries.saw(1, Library::OpenSsl, 10);
        libraries.saw(1, Library::GnuTls, 10);
        libraries.saw(1, Library::OpenSsl, 10);
        assert_eq!(libraries.of(1), None);
    }

    #[test]
    fn there_is_a_most() {
        let libraries = Libraries::default();
        for pid in 0..=MOST as u32 {
            libraries.saw(pid, Library::Go, 10);
        }
        assert_eq!((libraries.of(0), libraries.of(MOST as u32)), (None, Some(Library::Go)));
    }
}
