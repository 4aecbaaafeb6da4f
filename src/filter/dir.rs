//! Owns the rules inside one directory: which sources count there, and in which order.
//!
//! A [`DirRules`] is made from its parent's and the directory's own files; it then decides without
//! touching the file system. The order of the sources stands at the head of the parent room.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::protect;
use super::repository::{self, GitPlaces, Repository};
use super::rules::{Rule, RuleFile};
use super::{FilterOptions, Unread, Verdict, as_path};

/// git's name for a directory's rules.
pub(super) const GITIGNORE: &str = ".gitignore";
/// Our name for a directory's rules.
pub(super) const E2EKIGNORE: &str = ".e2ekignore";
/// A larger file of rules is not read, as git does from 2.46 on (`PATTERN_MAX_FILE_SIZE`).
const MAX_FILE_BYTES: u64 = 100 << 20;

/// Which files of rules may lie in a directory: only those are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleFiles {
    repository: bool,
    gitignore: bool,
    e2ekignore: bool,
}

impl RuleFiles {
    /// Nobody looked: all of them may be there.
    pub const ANY: Self = Self { repository: true, gitignore: true, e2ekignore: true };

    /// Those among the names of a whole directory. One that appears after these were listed is a
    /// change like any other, to be followed by [`Filter::forget`](super::Filter::forget).
    #[must_use]
    pub fn listed<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut files = Self { repository: false, gitignore: false, e2ekignore: false };
        // Where letter case does not count, `open` would find them under other names.
        for name in names.into_iter().filter(|name| name.first() == Some(&b'.')) {
            files.repository |= name.eq_ignore_ascii_case(b".git");
            files.gitignore |= name.eq_ignore_ascii_case(GITIGNORE.as_bytes());
            files.e2ekignore |= name.eq_ignore_ascii_case(E2EKIGNORE.as_bytes());
        }
        files
    }
}

/// The rules that apply inside one directory. Cheap to clone; sent between threads freely.
#[derive(Clone)]
pub struct DirRules {
    dir: Arc<Dir>,
    /// How often the filter had forgotten something when whoever holds these began to look.
    since: u64,
}

struct Dir {
    common: Arc<Common>,
    /// Relative to the top; empty, or with a slash at the end.
    path: Box<[u8]>,
    /// `.e2ekignore` files, the outermost first.
    ours: Layers,
    /// `core.excludesFile`, `info/exclude`, then `.gitignore` files, the outermost first.
    gits: Layers,
    /// Of the repository around this directory.
    ignore_case: bool,
    /// Set in a directory that is only open for an include: what everything else in it gets.
    closed: Option<Verdict>,
    /// No other of the same reading has it.
    id: u64,
    /// That of the directory's parent, whose rules these build on.
    parent: u64,
}

type Layers = Arc<[Layer]>;

/// A file of rules and how many bytes of a path lead to its directory.
#[derive(Clone)]
struct Layer {
    file: Arc<RuleFile>,
    base: usize,
}

/// What all directories of one reading share.
struct Common {
    /// Where paths of rules begin: the repository's top, else the root.
    top: PathBuf,
    /// How many bytes of a path below the top lead to the root, with the slash.
    prefix: usize,
    includes: Arc<RuleFile>,
    /// Directories on the way to what is included.
    passages: Arc<RuleFile>,
    excludes: Arc<RuleFile>,
    git: Option<GitPlaces>,
    unread: Mutex<Vec<Unread>>,
    /// What lies outside of what a watcher of the root sees, by the directory it decides about.
    outside: Mutex<BTreeMap<PathBuf, Outside>>,
    /// More is in there than whoever follows it knows.
    outside_grew: AtomicBool,
    next_id: AtomicU64,
}

/// What decides about a directory and is not seen by a watcher of the root.
#[derive(Default)]
struct Outside {
    /// What begins there, or may yet.
    repository: Option<Repository>,
    /// Files of rules: whether they may be links, and a hash of what was read.
    files: BTreeMap<PathBuf, (bool, Option<blake3::Hash>)>,
}

/// A verdict, and the rule that led to it (also when that rule keeps the path).
pub(super) struct Decision {
    pub(super) verdict: Verdict,
    pub(super) rule: Option<Rule>,
    /// For a directory that is kept only as a way to something included: what the rest gets.
    closed: Option<Verdict>,
}

impl Decision {
    fn new(verdict: Verdict, rule: Option<Rule>) -> Self {
        Self { verdict, rule, closed: None }
    }
}

impl DirRules {
    /// Reads the rules of `root` (absolute, resolved).
    pub(super) fn of_root(root: &Path, options: &FilterOptions) -> Self {
        let top = options.git.as_ref().and_then(|_| repository::top_of(root)).unwrap_or(root);
        let below = root.strip_prefix(top).expect("the top is an ancestor of the root or itself");
        let names: Vec<&[u8]> = below.iter().map(|name| name.as_encoded_bytes()).collect();
        let common = Arc::new(Common {
            top: top.to_path_buf(),
            prefix: names.iter().map(|name| name.len() + 1).sum(),
            includes: includes(&options.includes, false),
            passages: includes(&options.includes, true),
            excludes: patterns(b"--exclude", &options.excludes),
            git: options.git.clone(),
            unread: Mutex::default(),
            outside: Mutex::default(),
            outside_grew: AtomicBool::new(true),
            next_id: AtomicU64::new(1),
        });
        let outermost = Dir {
            common,
            path: Box::default(),
            ours: Arc::default(),
            gits: Arc::default(),
            ignore_case: false,
            closed: None,
            id: 0,
            parent: 0,
        };
        names.iter().fold(Self::new(outermost.with_files(true, RuleFiles::ANY), 0), |dir, name| {
            Self::new(dir.inside(name, None, RuleFiles::ANY), 0)
        })
    }

    /// The rules inside the directory `name`; reads those of its files that may be there.
    pub(super) fn enter(&self, name: &[u8], files: RuleFiles) -> Self {
        let closed = match self.dir.common.passages.is_empty() {
            true => None,
            false => self.decide(name, true).closed,
        };
        Self::new(self.inside(name, closed, files), self.since)
    }

    fn new(dir: Dir, since: u64) -> Self {
        Self { dir: Arc::new(dir), since }
    }

    /// The same, for somebody who begins to look when so much has been forgotten.
    pub(super) fn since(&self, forgotten: u64) -> Self {
        Self { dir: Arc::clone(&self.dir), since: forgotten }
    }

    /// The same, for whoever holds those.
    pub(super) fn as_seen_by(&self, holder: &Self) -> Self {
        self.since(holder.since)
    }

    /// Whether nothing was forgotten between the two.
    pub(super) fn is_as_old_as(&self, other: &Self) -> bool {
        self.since == other.since
    }

    /// Whether nothing was forgotten since whoever holds these began to look.
    pub(super) fn is_as_of(&self, forgotten: u64) -> bool {
        self.since == forgotten
    }

    fn inside(&self, name: &[u8], closed: Option<Verdict>, files: RuleFiles) -> Dir {
        let dir = Dir {
            common: Arc::clone(&self.dir.common),
            path: [&self.path_of(name), &b"/"[..]].concat().into(),
            ours: Arc::clone(&self.dir.ours),
            gits: Arc::clone(&self.dir.gits),
            ignore_case: self.dir.ignore_case,
            closed,
            id: self.dir.common.next_id.fetch_add(1, Ordering::Relaxed),
            parent: self.dir.id,
        };
        dir.with_files(false, files)
    }

    /// The path of `name` in this directory, below the top.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        // Room for the slash that a child's path ends with.
        let mut path = Vec::with_capacity(self.dir.path.len() + name.len() + 1);
        path.extend_from_slice(&self.dir.path);
        path.extend_from_slice(name);
        path
    }

    /// Whether these are of a directory in that of `parent`, and were made from those very rules.
    pub(super) fn comes_from(&self, parent: &Self) -> bool {
        self.dir.parent == parent.dir.id
    }

    /// Whether both were read between the same two reloads.
    pub(super) fn is_of_one_reading(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dir.common, &other.dir.common)
    }

    /// The files that lie outside of what a watcher of the root sees, whether they are there or not.
    pub(super) fn outside(&self) -> Vec<PathBuf> {
        let outside = self.dir.common.outside();
        let files = outside.values().flat_map(|outside| {
            let asked = outside.repository.iter().flat_map(|repository| &repository.asked);
            asked.chain(outside.files.keys())
        });
        files.cloned().collect()
    }

    /// Whether there are more of them since this was asked last.
    pub(super) fn take_outside_grew(&self) -> bool {
        self.dir.common.outside_grew.swap(false, Ordering::Relaxed)
    }

    /// Whether one of those says something else than what was read.
    pub(super) fn is_outdated(&self) -> bool {
        let common = &self.dir.common;
        let other = |directory: &Path, repository: &Repository| {
            let places = common.git.as_ref();
            places.is_some_and(|places| Repository::read(directory, places) != *repository)
        };
        common.outside().iter().any(|(directory, outside)| {
            outside.repository.as_ref().is_some_and(|repository| other(directory, repository))
                || (outside.files.iter())
                    .any(|(file, (follow, hash))| hash_of(&read(file, *follow)) != *hash)
        })
    }

    /// Forgets what lies outside for a directory, by its path below the top, and all below it.
    pub(super) fn forget_outside(&self, below: &[u8]) {
        let directory = self.dir.common.top.join(as_path(below));
        self.dir.common.outside().retain(|of, _| !of.starts_with(&directory));
    }

    pub(super) fn unread(&self) -> Vec<Unread> {
        self.dir.common.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decides about one name in this directory.
    pub(super) fn decide(&self, name: &[u8], is_dir: bool) -> Decision {
        if name == protect::STAGING {
            let rule = protect::staging();
            return Decision::new(Verdict::Ignored(rule.clone()), Some(rule));
        }
        let dir = &*self.dir;
        let path = self.path_of(name);
        let below_root = &path[dir.common.prefix..];
        // Includes are kept as `!` patterns, so what includes is negative.
        let include = dir.common.includes.matched(below_root, is_dir);
        if let Some(rule) = include.filter(Rule::is_negative) {
            return Decision::new(Verdict::Kept, Some(rule));
        }
        let decision = match &dir.closed {
            Some(verdict) => Decision::new(verdict.clone(), verdict.rule().cloned()),
            None => dir.judge(&path, name, is_dir),
        };
        if decision.verdict.is_kept() {
            return decision;
        }
        let closed = Some(decision.verdict.clone());
        if is_dir && dir.common.passages.matched(below_root, true).is_some() {
            return Decision { verdict: Verdict::Kept, rule: None, closed };
        }
        Decision { closed, ..decision }
    }
}

impl Common {
    fn outside(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Outside>> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of something that decides about a directory.
    fn note(&self, directory: &Path, note: impl FnOnce(&mut Outside)) {
        note(self.outside().entry(directory.to_path_buf()).or_default());
        self.outside_grew.store(true, Ordering::Relaxed);
    }
}

impl Dir {
    /// Everything below the includes.
    fn judge(&self, path: &[u8], name: &[u8], is_dir: bool) -> Decision {
        let excludes = &self.common.excludes;
        let deepest = |layers: &Layers| {
            layers.iter().rev().find_map(|layer| layer.file.matched(&path[layer.base..], is_dir))
        };
        let rule = excludes
            .matched(&path[self.common.prefix..], is_dir)
            .or_else(|| deepest(&self.ours))
            .or_else(|| deepest(&self.gits));
        match rule {
            Some(rule) if !rule.is_negative() => {
                Decision::new(Verdict::Ignored(rule.clone()), Some(rule))
            }
            rule => match protect::protects(self.name(), name, is_dir) {
                Some(rule) => Decision::new(Verdict::Protected(rule.clone()), Some(rule)),
                None => Decision::new(Verdict::Kept, rule),
            },
        }
    }

    /// The last component of the directory's path; empty for the top.
    fn name(&self) -> &[u8] {
        let path = self.path.strip_suffix(b"/").unwrap_or(&self.path);
        path.rsplit(|&b| b == b'/').next().unwrap_or(path)
    }

    /// Adds what the directory's own files say. Where a repository begins, those around it end.
    fn with_files(mut self, is_top: bool, present: RuleFiles) -> Self {
        if present == RuleFiles::listed([]) {
            return self;
        }
        let directory = self.common.top.join(as_path(&self.path));
        let above = self.path.len() < self.common.prefix;
        if let Some(places) = self.common.git.clone() {
            if is_top || (present.repository && repository::is_marked(&directory)) {
                self.begin(&directory, &places, is_top);
            }
            if present.gitignore {
                let file = directory.join(GITIGNORE);
                let place = Place { follow: false, outside: above.then_some(&directory) };
                self.gits = self.with_layer(&self.gits, &file, &file, place);
            }
        }
        if present.e2ekignore {
            let file = directory.join(E2EKIGNORE);
            let place = Place { follow: false, outside: above.then_some(&directory) };
            self.ours = self.with_layer(&self.ours, &file, &file, place);
        }
        self
    }

    /// Takes what a repository says that begins here. The top is one even where there is none: then the
    /// user's own settings count.
    fn begin(&mut self, directory: &Path, places: &GitPlaces, is_top: bool) {
        let repository = Repository::read(directory, places);
        if is_top || repository.begins {
            self.gits = Arc::default();
            self.ignore_case = repository.ignore_case;
            let files = [&repository.excludes_file, &repository.info_exclude];
            for file in files.into_iter().flatten() {
                let place = Place { follow: true, outside: Some(directory) };
                self.gits = self.with_layer(&self.gits, &directory.join(file), file, place);
            }
        }
        self.common.note(directory, |outside| outside.repository = Some(repository));
    }

    /// `layers` with `file` on top, if that can be read and says anything.
    fn with_layer(&self, layers: &Layers, file: &Path, shown: &Path, place: Place<'_>) -> Layers {
        let bytes = read(file, place.follow);
        if let Some(directory) = place.outside {
            let read = (place.follow, hash_of(&bytes));
            self.common.note(directory, |outside| {
                outside.files.insert(file.to_path_buf(), read);
            });
        }
        let bytes = match bytes {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Arc::clone(layers),
            Err(error) => {
                let unread = Unread { path: file.to_path_buf(), reason: error.to_string() };
                self.common.unread.lock().unwrap_or_else(PoisonError::into_inner).push(unread);
                return Arc::clone(layers);
            }
        };
        let shown = shown.strip_prefix(&self.common.top).unwrap_or(shown);
        let source = shown.as_os_str().as_encoded_bytes();
        let rules = RuleFile::from_bytes(source, &bytes, self.ignore_case);
        if rules.is_empty() {
            return Arc::clone(layers);
        }
        let layer = Layer { file: Arc::new(rules), base: self.path.len() };
        layers.iter().cloned().chain([layer]).collect()
    }
}

/// How a file of rules is read.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// If it is a link, what that leads to.
    follow: bool,
    /// The directory that it decides about, if a watcher of the root does not see it.
    outside: Option<&'a Path>,
}

/// What tells that a file says something else by now; `None` where there is nothing to read.
fn hash_of(bytes: &io::Result<Option<Vec<u8>>>) -> Option<blake3::Hash> {
    bytes.as_ref().ok()?.as_ref().map(|bytes| blake3::hash(bytes))
}

/// Patterns of an option, counted from 1.
fn patterns(source: &[u8], texts: &[String]) -> Arc<RuleFile> {
    let lines = (1..).zip(texts).map(|(number, text)| (number, text.as_bytes()));
    Arc::new(RuleFile::from_patterns(source, lines, false, |pattern| vec![pattern]))
}

/// Includes, turned into `!` patterns as an ignore file would say it; or the directories on the
/// way to them.
fn includes(texts: &[String], passages: bool) -> Arc<RuleFile> {
    let turn = |text: &String| text.strip_prefix('!').map_or(format!("!{text}"), str::to_owned);
    let turned: Vec<String> = texts.iter().map(turn).collect();
    let lines = (1..).zip(&turned).map(|(number, text)| (number, text.as_bytes()));
    Arc::new(RuleFile::from_patterns(b"--include", lines, false, |pattern| match passages {
        false => vec![pattern],
        true if pattern.negative => pattern.passages(),
        true => Vec::new(),
    }))
}

/// Reads a file of rules; `None` where there is none. A link is followed only on request, and
/// nothing but a regular file is waited for.
pub(super) fn read(path: &Path, follow: bool) -> io::Result<Option<Vec<u8>>> {
    let mut file = match open(path, follow) {
        Ok(file) => file,
        Err(error) => {
            use io::ErrorKind::{NotADirectory, NotFound};
            let absent = matches!(error.kind(), NotFound | NotADirectory);
            return if absent { Ok(None) } else { Err(error) };
        }
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(unix)]
fn open(path: &Path, follow: bool) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[cfg(not(unix))]
fn open(path: &Path, follow: bool) -> io::Result<File> {
    if !follow && path.symlink_metadata()?.is_symlink() {
        return Err(io::Error::other("a link"));
    }
    File::open(path)
}
