//! Owns the synthetic source tree: the same arguments always make the same bytes.
//!
//! Sizes are log-normal like those of real source trees (median 1.8 KB, mean 3.7 KB, at most
//! 256 KiB), 20 files a directory, directories in a tree of fan-out 10; 2 % are random bytes, the
//! rest lines that look like code. No two files are equal. Times lie in the past, so that no stat
//! cache has a reason to doubt them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::Result;
use crate::visible::same_content;

/// Files of a tree that is compared in whole.
const ALL_READ: usize = 100_000;
const PER_DIRECTORY: usize = 20;
const FAN_OUT: usize = 10;
const MEDIAN_BYTES: f64 = 1800.0;
const SIGMA: f64 = 1.2;
const MAX_BYTES: usize = 256 << 10;
const EXTENSIONS: [&str; 8] = ["py", "rs", "ts", "go", "js", "json", "md", "html"];
const WORDS: [&str; 24] = [
    "def", "return", "import", "class", "self", "for", "while", "async", "await", "let", "mut",
    "impl", "struct", "match", "const", "load", "node", "path", "user", "data", "list", "value",
    "index", "result",
];

/// A tree that was made, by names relative to its root.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// Parents first; the root is the empty path.
    pub(crate) directories: Vec<PathBuf>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough for bytes and sizes.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("usize fits in 64 bits");
        usize::try_from(self.next() % bound).expect("it is below a usize")
    }

    /// In (0, 1].
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Log-normal by Box and Muller.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, positive")]
    fn size(&mut self) -> usize {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        let size = (MEDIAN_BYTES.ln() + SIGMA * normal).exp();
        (size as usize).min(MAX_BYTES)
    }
}

impl Tree {
    /// Makes a tree below `root`, which must not exist.
    pub(crate) fn make(root: &Path, count: usize) -> Result<Self> {
        let mut dice = Dice(1);
        let lines = lines(&mut dice);
        let directories = directories(count.div_ceil(PER_DIRECTORY));
        for directory in &directories {
            fs::create_dir(root.join(directory))?;
        }
        let mut tree = Self { root: root.to_owned(), directories, files: Vec::new(), bytes: 0 };
        for number in 0..count {
            let size = dice.size();
            let binary = dice.below(50) == 0;
            let body = if binary { noise(&mut dice, size) } else { code(&mut dice, &lines, size) };
            let name = if binary {
                format!("asset_{number}.bin")
            } else {
                format!("mod_{number}.{}", EXTENSIONS[number % EXTENSIONS.len()])
            };
            let path = tree.directories[number / PER_DIRECTORY].join(name);
            tree.bytes += put(&root.join(&path), number, &body)?;
            tree.files.push(path);
        }
        Ok(tree)
    }

    /// The same names below another root.
    pub(crate) fn at(&self, root: &Path) -> Self {
        Self { root: root.to_owned(), ..self.clone() }
    }

    /// The first file that `root` has not with the same content, mode and time of modification. In
    /// a tree of more than [`ALL_READ`] files, content is looked at in some only.
    pub(crate) fn differs(&self, root: &Path) -> Option<PathBuf> {
        let step = self.files.len().div_ceil(ALL_READ).max(1);
        let look = |path: PathBuf| -> std::io::Result<_> {
            let meta = fs::metadata(&path)?;
            Ok((meta.mode(), meta.len(), meta.mtime(), meta.mtime_nsec()))
        };
        let same = |(number, path): &(usize, &PathBuf)| {
            let (here, there) = (self.root.join(path), root.join(path));
            let content = *number % step != 0 || same_content(&here, &there);
            content && matches!((look(here), look(there)), (Ok(here), Ok(there)) if here == there)
        };
        self.files.iter().enumerate().find(|entry| !same(entry)).map(|(_, path)| path.clone())
    }

    /// Whether `root` has all files, as long as they are here. Those before `known` are taken for
    /// granted, and it is moved on, so that asking again and again costs little.
    pub(crate) fn present(&self, root: &Path, known: &mut usize) -> bool {
        let length = |path: PathBuf| fs::metadata(path).map(|meta| meta.len()).ok();
        while let Some(path) = self.files.get(*known) {
            let there = length(root.join(path));
            if there.is_none() || there != length(self.root.join(path)) {
                return false;
            }
            *known += 1;
        }
        true
    }
}

/// One save, as an editor does that writes in place: the same length, another first line.
pub(crate) struct Edit {
    file: File,
    content: Vec<u8>,
}

impl Edit {
    /// Opens and changes the content in memory; nothing is written yet.
    pub(crate) fn prepare(path: &Path, number: u64) -> Result<Self> {
        Self::open(path, Self::content(path, number)?)
    }

    /// What the save will write.
    pub(crate) fn content(path: &Path, number: u64) -> Result<Vec<u8>> {
        let mut content = fs::read(path)?;
        let head = edit_line(number);
        let place = content.get_mut(HEAD_AT..HEAD_AT + head.len()).ok_or("not a file of ours")?;
        place.copy_from_slice(head.as_bytes());
        Ok(content)
    }

    /// Opens the file for that content, which is as long as the one there.
    pub(crate) fn open(path: &Path, content: Vec<u8>) -> Result<Self> {
        Ok(Self { file: OpenOptions::new().write(true).open(path)?, content })
    }

    /// Writes and closes; the moment right before the write(2).
    pub(crate) fn save(mut self) -> Result<u64> {
        let moment = crate::clock::now();
        self.file.write_all(&self.content)?;
        drop(self.file);
        Ok(moment)
    }
}

/// Where the changing part of the first line begins, in bytes.
const HEAD_AT: usize = "# file 00000000 ".len();

fn edit_line(number: u64) -> String {
    format!("edit {number:020}\n")
}

fn directories(count: usize) -> Vec<PathBuf> {
    let mut made = vec![PathBuf::new()];
    for number in 1..count.max(1) {
        let parent = &made[(number - 1) / FAN_OUT];
        made.push(parent.join(format!("part_{number}")));
    }
    made
}

pub(crate) fn lines(dice: &mut Dice) -> Vec<Vec<u8>> {
    let line = |dice: &mut Dice| {
        let mut text = "    ".repeat(dice.below(4));
        for _ in 0..2 + dice.below(7) {
            text.push_str(WORDS[dice.below(WORDS.len())]);
            text.push_str(["_", ".", " ", ", ", "(", ") "][dice.below(6)]);
            text.push_str(&dice.below(1000).to_string());
        }
        text.push('\n');
        text.into_bytes()
    };
    (0..20_000).map(|_| line(dice)).collect()
}

pub(crate) fn code(dice: &mut Dice, lines: &[Vec<u8>], size: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(size + 128);
    while body.len() < size {
        body.extend_from_slice(&lines[dice.below(lines.len())]);
    }
    body.truncate(size);
    body
}

/// Other lines, so many, at random places of a content; of what has no lines, some bytes.
pub(crate) fn change_lines(content: &mut Vec<u8>, dice: &mut Dice, count: usize) {
    for _ in 0..count {
        let place = dice.below(content.len().max(1));
        let begin = content[..place].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let length = content[begin..].iter().position(|&byte| byte == b'\n');
        let end = begin + length.unwrap_or(content.len() - begin).min(120);
        let line = format!("    changed_{}({})", dice.below(1000), dice.next());
        content.splice(begin..end, line.into_bytes());
    }
}

pub(crate) fn noise(dice: &mut Dice, size: usize) -> Vec<u8> {
    let mut body: Vec<u8> = (0..size.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).collect();
    body.truncate(size);
    body
}

fn put(path: &Path, number: usize, body: &[u8]) -> Result<u64> {
    let mut content = format!("# file {number:08} {}", edit_line(0)).into_bytes();
    content.extend_from_slice(body);
    let mut file = File::create_new(path)?;
    file.write_all(&content)?;
    let step = Duration::from_nanos(1_000_003) * u32::try_from(number)?;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + step)?;
    Ok(u64::try_from(content.len())?)
}
