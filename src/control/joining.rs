//! What a second `watch` says of itself when it asks to join: the targets it wants, and the settings
//! that it must have in common with the first.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A second watch of the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// The source directories, in the order of the tree.
    pub sources: Vec<Word>,
    /// What all targets share: each setting's name and its value as it would be typed.
    pub settings: Vec<(String, String)>,
    /// What it wants; never empty.
    pub targets: Vec<Wanted>,
    /// Ports of this machine, and the ports of the first workload's pods that they lead to.
    #[serde(default)]
    pub forwards: Vec<(u16, u16)>,
}

/// A target as a `watch` wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// For people.
    pub name: String,
    /// Where it is.
    pub place: TargetPlace,
    /// For people: the path at the target.
    pub root: Word,
    /// Where a program of [`TargetPlace::transport`] is started.
    pub directory: Option<Word>,
    /// `auto`, `rename` or `in-place`.
    pub write: String,
    /// Take the right to write from whoever holds it.
    #[serde(default)]
    pub take_over: bool,
    /// What runs there.
    pub command: Option<WantedCommand>,
    /// The workload in whose pods it is, as they come and go.
    #[serde(default)]
    pub workload: Option<WantedWorkload>,
}

/// A workload in a cluster, as it was typed. What was not typed is what kubectl would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedWorkload {
    /// The short kind: `deploy`, `pod`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The files that lead to the cluster, absolute.
    pub kubeconfig: Vec<Word>,
    /// One of their contexts.
    pub context: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// Only this one of its pods.
    pub pod: Option<String>,
    /// Only pods with these labels.
    pub selector: Option<String>,
    /// The app's container.
    pub container: Option<String>,
    /// What the environment says of proxies: for TLS, for others, for which hosts none.
    #[serde(default)]
    pub proxies: [String; 3],
}

/// Where a target is. Two that are equal are the same target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPlace {
    /// The place of each source, in their order.
    pub roots: Vec<Word>,
    /// The process in whose root they are.
    pub process: Option<u32>,
    /// The program that is spoken to, with its arguments; `None` for this machine. A program that
    /// is not looked up in PATH is absolute.
    pub transport: Option<Vec<Word>>,
    /// The pod in whose container they are.
    #[serde(default)]
    pub pod: Option<PodPlace>,
}

/// A pod, and a container in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlace {
    /// The API server.
    pub server: String,
    /// The namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Which of those that ever had that name.
    pub uid: String,
    /// The container.
    pub container: String,
}

/// A command to run at a target. Two that are equal are the same command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedCommand {
    /// The program and its arguments; never empty.
    pub argv: Vec<Word>,
    /// The signal that asks it to stop, by number.
    pub signal: i32,
    /// How long it may take before SIGKILL, in milliseconds.
    pub kill_after_ms: u64,
}

/// A word or a path: any bytes. As JSON a string where it is UTF-8, else a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(pub OsString);

impl Word {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// It as a path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl From<&OsStr> for Word {
    fn from(word: &OsStr) -> Self {
        Self(word.to_owned())
    }
}

impl From<&Path> for Word {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().to_owned())
    }
}

impl From<PathBuf> for Word {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string())
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => out.serialize_str(text),
            None => self.as_bytes().serialize(out),
        }
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(Self(match Form::deserialize(from)? {
            Form::Text(text) => text.into(),
            Form::Bytes(bytes) => OsString::from_vec(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_any_bytes_comes_back() {
        for bytes in [&b"plain"[..], b"\xff\x00", b"", "\u{e4}\u{1b}".as_bytes()] {
            let word = Word(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&word).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), word, "{json}");
        }
    }
}
