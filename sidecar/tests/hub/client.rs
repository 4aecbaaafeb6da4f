//! A small daemon: enough of one to open a session and bring a target to a tree.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Edit, Entry, Node, Reason, Snapshot, Stamp, TreeId};
use e2ek_sidecar::wire::{
    self, Blob, Decoder, FromHub, Hello, HelloReader, How, Meta, Op, Open, Packer, ToHub, WriteMode,
};

pub(crate) const ANN: u8 = 1;
pub(crate) const BOB: u8 = 2;

/// A command of the program under test.
pub(crate) fn sidecar(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
    command.args(words);
    command
}

pub(crate) fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

/// A tree of one pair with its contents.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    pub(crate) snapshot: Snapshot,
    pub(crate) contents: HashMap<Digest, Vec<u8>>,
}

impl Tree {
    /// Files by path below the root: a content beginning with `-> ` is a link, with `#!` executable.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        Self::of(files.iter().map(|(name, content)| (name.to_string(), content.to_string())))
    }

    pub(crate) fn of(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut contents = HashMap::new();
        let mut edits: Vec<Edit> = vec![(path("0"), Some(Node::directory()))];
        for (name, content) in files {
            let at = path(&format!("0/{name}"));
            let mut above = at.parent();
            while let Some(directory) = above.filter(|above| above.components().count() > 1) {
                edits.push((directory.clone(), Some(Node::directory())));
                above = directory.parent();
            }
            let entry = match content.strip_prefix("-> ") {
                Some(target) => Entry::Symlink { target: target.as_bytes().into() },
                None => Entry::File {
                    digest: Digest::of(content.as_bytes()),
                    size: content.len() as u64,
                    executable: content.starts_with("#!"),
                },
            };
            contents.insert(Digest::of(content.as_bytes()), content.into_bytes());
            edits.push((at, Some(Node::from_entry(&entry, Stamp::default()))));
        }
        edits.sort_by(|a, b| a.0.cmp(&b.0));
        edits.dedup_by(|a, b| a.0 == b.0);
        Self { snapshot: Snapshot::empty().apply(&edits).unwrap(), contents }
    }

    pub(crate) fn id(&self) -> TreeId {
        self.snapshot.id()
    }
}

/// What came of a generation.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tree: TreeId,
    pub(crate) skipped: Vec<(String, Option<Reason>)>,
    pub(crate) overwritten: Vec<String>,
    /// Ops that needed data although they asked first.
    pub(crate) needed: usize,
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    pub(crate) generation: u64,
    /// The last number of a content that came ahead.
    pub(crate) ahead: u64,
    /// The hub, when it is ours alone.
    pub(crate) child: Option<Child>,
}

impl Client {
    /// Starts a hub of its own.
    pub(crate) fn stdio(state: &Path) -> Self {
        let (child, stream) = hub_of_one_link(state);
        Self::over(stream, Some(child))
    }

    /// Starts a hub of its own that is killed at its n-th `pwrite64`.
    pub(crate) fn killed_at_pwrite(state: &Path, number: u32) -> Self {
        Self::injected(state, None, &[&format!("pwrite64:signal=KILL:when={number}")])
    }

    /// Starts a hub of its own whose system calls fail, or kill it, as strace is told; only those on
    /// one `file` count.
    pub(crate) fn injected(state: &Path, file: Option<&Path>, faults: &[&str]) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null"]);
        if let Some(file) = file {
            strace.arg("-P").arg(file);
        }
        let calls: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
        strace.arg("-e").arg(format!("trace={}", calls.join(",")));
        for fault in faults {
            strace.arg("-e").arg(format!("inject={fault}"));
        }
        strace.arg(env!("CARGO_BIN_EXE_e2ek-sidecar"));
        let (child, stream) = over_one_socket(strace, state);
        Self::over(stream, Some(child))
    }

    pub(crate) fn connect(socket: &Path) -> Self {
        Self::over(Self::reach(socket).unwrap(), None)
    }

    /// Connects, through a short name of the folder: the kernel takes 108 bytes.
    pub(crate) fn reach(socket: &Path) -> Option<UnixStream> {
        let folder = std::fs::File::open(socket.parent()?).ok()?;
        let short = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder));
        UnixStream::connect(Path::new(&short).join(socket.file_name()?)).ok()
    }

    fn over(mut stream: UnixStream, child: Option<Child>) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let mut hello = Vec::new();
        Hello::ours().encode(&mut hello);
        stream.write_all(&hello).unwrap();
        let mut reader = HelloReader::default();
        let mut decoder = Decoder::default();
        loop {
            let mut byte = [0; 256];
            let len = read(&mut stream, &mut byte).unwrap();
            assert!(len > 0, "no hello");
            if let Some((_, rest)) = reader.feed(&byte[..len]).unwrap() {
                decoder.feed(&rest);
                break;
            }
        }
        Self { stream, decoder, generation: 0, ahead: 0, child }
    }

    pub(crate) fn send(&mut self, message: &ToHub) {
        assert!(self.try_send(message), "the hub is gone");
    }

    pub(crate) fn try_send(&mut self, message: &ToHub) -> bool {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.stream.write_all(&bytes).is_ok()
    }

    /// The next message but pings and what keeps windows; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<FromHub> {
        loop {
            match self.any()? {
                FromHub::Ping | FromHub::Credit { .. } | FromHub::AheadTaken { .. } => {}
                message => return Some(message),
            }
        }
    }

    /// The next message; `None` at the end.
    pub(crate) fn any(&mut self) -> Option<FromHub> {
        loop {
            if let Some((message, _)) = self.decoder.message::<FromHub>().unwrap() {
                return Some(message);
            }
            let mut buffer = [0; 65536];
            match read(&mut self.stream, &mut buffer) {
                Ok(0) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
                Ok(len) => self.decoder.feed(&buffer[..len]),
            }
        }
    }

    /// Opens a session; answers of `Drifted` are gathered.
    pub(crate) fn open(&mut self, open: Open) -> (Vec<String>, FromHub) {
        self.send(&ToHub::Open(open));
        let mut drifted = Vec::new();
        loop {
            match self.next().expect("an answer") {
                FromHub::Drifted { paths } => drifted.extend(paths.iter().map(|p| p.to_string())),
                answer => {
                    if let FromHub::Opened { generation, .. } = answer {
                        self.generation = generation;
                    }
                    return (drifted, answer);
                }
            }
        }
    }

    /// Opens, and expects to get in.
    pub(crate) fn enter(&mut self, who: u8, root: &Path) -> (TreeId, u64) {
        match self.open(open(who, root)).1 {
            FromHub::Opened { tree, epoch, .. } => (tree, epoch),
            other => panic!("{other:?}"),
        }
    }

    /// Sends what leads from one tree to another.
    pub(crate) fn sync(&mut self, from: &Tree, to: &Tree, ask: bool) -> Outcome {
        let ops = plan(from, to, ask);
        self.generation += 1;
        let generation = self.generation;
        self.send(&ToHub::Ops { generation, ops: ops.clone(), last: true });
        let asks = |op: &&Op| matches!(op.how, How::Ask | How::Copy { .. });
        let mut needed = Vec::new();
        if ops.iter().any(|op| asks(&op)) {
            loop {
                match self.next() {
                    Some(FromHub::Need { indices, last, .. }) => {
                        needed.extend(indices);
                        if last {
                            break;
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for message in content(&ops, to, &needed) {
            self.send(&message);
        }
        self.send(&ToHub::Commit { generation, target: to.id() });
        let needed = needed.len();
        match self.next() {
            Some(FromHub::Applied { tree, skipped, overwritten, .. }) => Outcome {
                tree,
                skipped: (skipped.into_iter())
                    .map(|s| (ops[s.index as usize].change.path.to_string(), s.reason))
                    .collect(),
                overwritten: overwritten.iter().map(|p| p.to_string()).collect(),
                needed,
            },
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Says good-bye and waits for the hub's end.
    pub(crate) fn leave(mut self) {
        self.send(&ToHub::Bye);
        while let Some(message) = self.next() {
            assert!(matches!(message, FromHub::Bye { .. }), "{message:?}");
        }
        if let Some(child) = &mut self.child {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
    }
}

/// The ops from one tree to another: copies where the old one has the content.
pub(crate) fn plan(from: &Tree, to: &Tree, ask: bool) -> Vec<Op> {
    let mut known = HashMap::new();
    from.snapshot.walk(&mut |path, node| {
        if let Node::File { digest, .. } = node {
            known.insert(*digest, path.clone());
        }
    });
    let how = |old: &Option<Entry>, new: &Option<Entry>| match (old, new) {
        (_, Some(Entry::File { size: 0, .. })) => How::None,
        (Some(Entry::File { digest: a, .. }), Some(Entry::File { digest: b, .. })) if a == b => {
            How::None
        }
        (_, Some(Entry::File { digest, .. })) => match known.get(digest) {
            _ if ask => How::Ask,
            Some(from) => How::Copy { from: from.clone() },
            None => How::Data,
        },
        _ => How::None,
    };
    (from.snapshot.diff(&to.snapshot).into_iter())
        .map(|change| Op { how: how(&change.old, &change.new), change, meta: Meta::default() })
        .collect()
}

/// The Data messages for what needs data.
pub(crate) fn content(ops: &[Op], to: &Tree, needed: &[u32]) -> Vec<ToHub> {
    let mut packer = Packer::new(0);
    let mut messages = Vec::new();
    for (index, op) in (0u32..).zip(ops) {
        if (op.how == How::Data || needed.contains(&index))
            && let Some(Entry::File { digest, .. }) = &op.change.new
        {
            messages.extend(packer.push(index, &to.contents[digest]));
        }
    }
    messages.extend(packer.flush());
    messages
}

pub(crate) fn open(who: u8, root: &Path) -> Open {
    use std::os::unix::ffi::OsStrExt;
    Open {
        workspace: [who; 16],
        writer: format!("writer-{who}"),
        roots: vec![Blob(root.as_os_str().as_bytes().to_vec())],
        process: None,
        write: WriteMode::Auto,
        take_over: false,
        check: false,
        dry_run: false,
    }
}

/// A hub over one socket, which is its standard input and output.
pub(crate) fn hub_of_one_link(state: &Path) -> (Child, UnixStream) {
    over_one_socket(sidecar(&[]), state)
}

fn over_one_socket(mut command: Command, state: &Path) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let stream = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    command
        .args(["stdio", "--state"])
        .arg(state)
        .stdin(stream())
        .stdout(stream())
        .stderr(Stdio::piped());
    (command.spawn().unwrap(), ours)
}

/// Everything below a directory, as [`Tree::new`] takes it; empty directories end in a slash.
pub(crate) fn listing(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    list(root, "", &mut found);
    found.sort();
    found
}

fn list(directory: &Path, prefix: &str, found: &mut Vec<(String, String)>) {
    let entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
    if entries.is_empty() && !prefix.is_empty() {
        found.push((prefix.to_owned(), String::new()));
    }
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            list(&entry.path(), &format!("{name}/"), found);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            found.push((name, format!("-> {}", target.display())));
        } else if kind.is_file() {
            found.push((
                name,
                String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()).into_owned(),
            ));
        } else {
            found.push((name, "special".to_owned()));
        }
    }
}

pub(crate) fn texts(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut texts: Vec<_> =
        files.iter().map(|(name, content)| (name.to_string(), content.to_string())).collect();
    texts.sort();
    texts
}

/// Reads once. A read with a time limit is interrupted also when the whole process is frozen for a
/// moment.
fn read(stream: &mut UnixStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
