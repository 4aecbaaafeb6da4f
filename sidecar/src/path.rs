//! Owns the one kind of path that may cross the wire or name a file below a root.
//!
//! A [`SyncPath`] is checked once, when it is made; whoever holds one need not check again. It
//! promises nothing about what lies on disk: links and races are the writer's business
//! (`server::root`).

#![deny(clippy::disallowed_methods)]

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest component, in bytes (`NAME_MAX` of `linux/limits.h`).
pub const MAX_COMPONENT_BYTES: usize = 255;
/// Longest path, in bytes (`PATH_MAX` of `linux/limits.h`).
pub const MAX_PATH_BYTES: usize = 4096;
/// Bytes that are compared at once.
const CHUNK: usize = 16;
/// Deepest path, in components. Recursion over a tree is bounded by it.
pub const MAX_DEPTH: usize = 256;

/// A relative path: bytes with `/` between components, none of which is empty, `.`, `..` or holds
/// a NUL. The empty path is [`SyncPath::root`] and names the root itself.
///
/// Ordered by component, so that a directory comes directly before what is inside it and a sorted
/// list of paths is a depth-first walk.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct SyncPath(Box<[u8]>);

/// Why bytes are not a [`SyncPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing between two slashes, at an end, or at all.
    #[error("path has an empty component")]
    Empty,
    /// A `.` or `..` component.
    #[error("path has a `.` or `..` component")]
    Dots,
    /// A NUL byte.
    #[error("path holds a NUL byte")]
    Nul,
    /// Longer than [`MAX_COMPONENT_BYTES`], [`MAX_PATH_BYTES`] or deeper than [`MAX_DEPTH`].
    #[error("path is longer than a file system allows")]
    TooLong,
}

/// Checks one component: not empty, not `.` or `..`, no NUL, no `/`, at most 255 bytes.
///
/// # Errors
/// Says which rule is broken.
pub fn check_component(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::Empty),
        b"." | b".." => Err(PathError::Dots),
        _ if name.len() > MAX_COMPONENT_BYTES => Err(PathError::TooLong),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.contains(&b'/') => Err(PathError::Empty),
        _ => Ok(()),
    }
}

impl SyncPath {
    /// The root itself: the empty path.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks bytes and takes them as a path below the root. The root itself is refused here, so
    /// that nothing from outside can name it by accident.
    ///
    /// # Errors
    /// When a component is empty, `.`, `..`, too long or holds a NUL, or the whole is too long.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        let mut depth = 0;
        for component in bytes.split(|&b| b == b'/') {
            check_component(component)?;
            depth += 1;
        }
        if depth > MAX_DEPTH {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes))
    }

    /// Whether this is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading or trailing slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Whether `name` inside this directory is a path, without making it.
    ///
    /// # Errors
    /// When `name` is not one component, or the whole becomes too long.
    pub fn check_join(&self, name: &[u8]) -> Result<(), PathError> {
        check_component(name)?;
        // A component takes two bytes with its slash: few bytes need no counting.
        let too_long = self.0.len() + 1 + name.len() > MAX_PATH_BYTES
            || (self.0.len() + 1 >= 2 * MAX_DEPTH && self.components().count() + 1 > MAX_DEPTH);
        if too_long && !self.is_root() { Err(PathError::TooLong) } else { Ok(()) }
    }

    /// The path of `name` inside this directory.
    ///
    /// # Errors
    /// As [`Self::check_join`].
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        self.check_join(name)?;
        if self.is_root() {
            return Ok(Self(name.into()));
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Ok(Self(bytes.into()))
    }

    /// The directory this path lies in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(Self(self.0[..cut].into()))
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The first component, and the path below that; `None` for the root.
    #[must_use]
    pub fn split_first(&self) -> Option<(&[u8], Self)> {
        let (first, rest) = match self.0.iter().position(|&b| b == b'/') {
            Some(cut) => (&self.0[..cut], &self.0[cut + 1..]),
            None => (&*self.0, &[][..]),
        };
        (!self.is_root()).then(|| (first, Self(rest.into())))
    }

    /// Whether this path is `other` or lies below it.
    #[must_use]
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&*other.0).is_some_and(|r| r.is_empty() || r[0] == b'/')
    }

    /// What remains below `base`: `None` when this path is not below it, the root when equal.
    #[must_use]
    pub fn strip_prefix(&self, base: &Self) -> Option<Self> {
        if base.is_root() {
            return Some(self.clone());
        }
        match self.0.strip_prefix(&*base.0)? {
            [] => Some(Self::root()),
            [b'/', rest @ ..] => Some(Self(rest.into())),
            _ => None,
        }
    }

    /// The path of `tail` below this one.
    ///
    /// # Errors
    /// When the whole becomes too long.
    pub fn append(&self, tail: &Self) -> Result<Self, PathError> {
        tail.components().try_fold(self.clone(), |path, name| path.join(name))
    }
}

impl Ord for SyncPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // `/` sorts below every byte a name may hold (NUL is excluded), so comparing with `/` as 0
        // compares component by component. What is equal is passed over in larger steps.
        let key = |&b: &u8| if b == b'/' { 0 } else { b };
        let (ours, theirs) = (self.0.chunks(CHUNK), other.0.chunks(CHUNK));
        let same = CHUNK * ours.zip(theirs).take_while(|(a, b)| a == b && a.len() == CHUNK).count();
        self.0[same..].iter().map(key).cmp(other.0[same..].iter().map(key))
    }
}

impl PartialOrd for SyncPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<&str> for SyncPath {
    type Error = PathError;
    fn try_from(text: &str) -> Result<Self, PathError> {
        Self::new(text.as_bytes())
    }
}

/// Shows a path to people: control characters and bytes that are not UTF-8 as `\xNN`, a backslash
/// doubled, so that no name can drive a terminal and every name can be told from every other.
impl fmt::Display for SyncPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        fmt::Display::fmt(&Escaped(&self.0), f)
    }
}

impl fmt::Debug for SyncPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Shows any bytes from outside to people; see [`SyncPath`]'s `Display`.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => escape_char(f, c)?,
                    // Bidirectional overrides reorder what a reader sees (CVE-2021-42574).
                    '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                        escape_char(f, c)?;
                    }
                    c => fmt::Write::write_char(f, c)?,
                }
            }
            for b in chunk.invalid() {
                write!(f, "\\x{b:02x}")?;
            }
        }
        Ok(())
    }
}

fn escape_char(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    let mut buffer = [0; 4];
    c.encode_utf8(&mut buffer).bytes().try_for_each(|b| write!(f, "\\x{b:02x}"))
}

impl Serialize for SyncPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SyncPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> serde::de::Visitor<'de> for Bytes {
            type Value = SyncPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a relative path")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<SyncPath, E> {
                SyncPath::new(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> SyncPath {
        SyncPath::try_from(text).unwrap()
    }

    #[test]
    fn i6_bad_paths_are_refused_with_their_reason() {
        let long = "x".repeat(256);
        let deep = vec!["d"; MAX_DEPTH + 1].join("/");
        for (text, reason) in [
            ("", PathError::Empty),
            ("/", PathError::Empty),
            ("/etc", PathError::Empty),
            ("a//b", PathError::Empty),
            ("a/", PathError::Empty),
            (".", PathError::Dots),
            ("a/../b", PathError::Dots),
            ("..", PathError::Dots),
            ("a\0b", PathError::Nul),
            (&*long, PathError::TooLong),
            (&*deep, PathError::TooLong),
        ] {
            assert_eq!(SyncPath::new(text.as_bytes()), Err(reason), "{text:?}");
        }
        assert!(SyncPath::new("...".as_bytes()).is_ok(), "three dots are a name");
        assert!(SyncPath::new(&b"\xff"[..]).is_ok(), "names are bytes");
    }

    #[test]
    fn a_directory_sorts_directly_before_its_content() {
        let mut paths = ["a.b", "a/z", "a", "a-b", "a/b/c", "b"].map(path);
        paths.sort();
        assert_eq!(paths, ["a", "a/b/c", "a/z", "a-b", "a.b", "b"].map(path));
    }

    #[test]
    fn names_cannot_drive_a_terminal() {
        let nasty = SyncPath::new(&b"\x1b]0;x\x07\\\xff\n\xe2\x80\xae"[..]).unwrap();
        assert_eq!(nasty.to_string(), "\\x1b]0;x\\x07\\\\\\xff\\x0a\\xe2\\x80\\xae");
    }

    #[test]
    fn parts_fit_together() {
        let p = path("a/b/c");
        assert_eq!(p.parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), Some(SyncPath::root()));
        assert_eq!(p.name(), Some(&b"c"[..]));
        assert_eq!(p.split_first(), Some((&b"a"[..], path("b/c"))));
        assert_eq!(path("a").split_first(), Some((&b"a"[..], SyncPath::root())));
        assert_eq!(SyncPath::root().split_first(), None);
        assert_eq!(p.strip_prefix(&path("a")), Some(path("b/c")));
        assert_eq!(p.strip_prefix(&path("a/b/c")), Some(SyncPath::root()));
        assert_eq!(path("ab").strip_prefix(&path("a")), None);
        assert!(p.starts_with(&path("a/b")) && !path("ab").starts_with(&path("a")));
        assert_eq!(path("a").append(&path("b/c")), Ok(p));
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_components(
            same in "([a-c/.-]{0,24}/)?",
            a in "[a-c/.-]{1,20}",
            b in "[a-c/.-]{1,20}",
        ) {
            let [a, b] = [a, b].map(|rest| format!("{same}{rest}"));
            if let (Ok(a), Ok(b)) = (SyncPath::new(a.as_bytes()), SyncPath::new(b.as_bytes())) {
                let by_component = a.components().collect::<Vec<_>>().cmp(&b.components().collect());
                prop_assert_eq!(a.cmp(&b), by_component);
            }
        }

        #[test]
        fn any_bytes_are_a_path_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(p) = SyncPath::new(bytes.clone()) {
                prop_assert_eq!(p.as_bytes(), &bytes[..]);
                let rebuilt = p.components().try_fold(SyncPath::root(), |p, c| p.join(c)).unwrap();
                prop_assert_eq!(&rebuilt, &p);
                let wire = postcard::to_stdvec(&p).unwrap();
                prop_assert_eq!(postcard::from_bytes::<SyncPath>(&wire).unwrap(), p);
            }
        }
    }
}
