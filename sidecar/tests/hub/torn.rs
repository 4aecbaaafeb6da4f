//! Patches in place that could not be, or were cut off: their records never lead to anything but the
//! old or the new content, and never over what others wrote meanwhile.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2ek_sidecar::delta::PatchWriter;
use e2ek_sidecar::wire::{FromHub, ToHub};

use super::client::{ANN, Client, Tree, listing, open};
use super::patches::{no_records, patch, tree};

const SIZE: usize = 65 << 20;
/// Where the patch writes.
const PLACES: [usize; 3] = [10 << 20, 30 << 20, 50 << 20];

/// A target with a large file, and what it is to become.
struct Ground {
    _folder: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
    before: Tree,
    after: Tree,
    patch: Vec<u8>,
}

impl Ground {
    /// A file that is to become so much longer, or shorter; `None` without strace.
    fn new(longer: isize) -> Option<Self> {
        if Command::new("strace").arg("-V").output().is_err() {
            println!("skipped: there is no strace");
            return None;
        }
        let old = vec![b'a'; SIZE];
        let mut new = old.clone();
        new.resize(SIZE.checked_add_signed(longer).unwrap(), b'z');
        let mut writer = PatchWriter::default();
        let mut at = 0;
        for place in PLACES {
            writer.copy(at as u64, (place - at) as u64);
            writer.bring(b"changed");
            new[place..place + 7].copy_from_slice(b"changed");
            at = place + 7;
        }
        let stays = SIZE.min(new.len());
        writer.copy(at as u64, (stays - at) as u64);
        writer.bring(&new[stays..]);
        let folder = tempfile::tempdir().unwrap();
        let (root, state) = (folder.path().join("target"), folder.path().join("state"));
        let (before, after) = (tree(&old), tree(&new));
        let mut client = Client::stdio(&state);
        client.enter(ANN, &root);
        client.sync(&Tree::default(), &before, false);
        client.leave();
        let patch = writer.finish();
        Some(Self { _folder: folder, root, state, old, new, before, after, patch })
    }

    fn file(&self) -> PathBuf {
        self.root.join("f")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.file()).unwrap()
    }

    fn inode(&self) -> u64 {
        fs::metadata(self.file()).unwrap().ino()
    }

    /// Patches with faults; whether the hub died of them.
    fn patched_with(&self, file: Option<&Path>, faults: &[&str]) -> bool {
        let mut client = Client::injected(&self.state, file, faults);
        if !client.try_send(&ToHub::Open(open(ANN, &self.root))) {
            return true;
        }
        let Some(FromHub::Opened { generation, .. }) = client.next() else { return true };
        client.generation = generation;
        match patch(&mut client, (&self.before, &self.after), &self.patch, false) {
            Err(_) => true,
            Ok(told) => {
                assert_eq!(told, None);
                assert!(no_records(&self.state), "a record of what is whole");
                client.try_send(&ToHub::Bye);
                !client.child.take().unwrap().wait().unwrap().success()
            }
        }
    }

    /// The next hub comes: no record is left, and this is the file then.
    fn found_by_the_next(&self) -> (Client, Vec<u8>) {
        let mut client = Client::stdio(&self.state);
        client.enter(ANN, &self.root);
        assert!(no_records(&self.state));
        (client, self.content())
    }
}

/// The disk is full for the file where it stands, and it is made beside: killed at any step of that
/// it is old or new, and no record outlives what it was for.
#[test]
fn i1_i8_what_could_not_be_patched_in_place_leaves_no_record() {
    let Some(ground) = Ground::new(100) else { return };
    const FULL: &str = "fallocate:error=ENOSPC";
    let (mut olds, mut news) = (0, 0);
    for call in ["unlink", "renameat", "pwrite64"] {
        for number in 1.. {
            assert!(number < 40, "{call} never ends");
            let inode = ground.inode();
            let kill = format!("{call}:signal=KILL:when={number}");
            let died = ground.patched_with(None, &[FULL, &kill]);
            let (mut client, found) = ground.found_by_the_next();
            assert!(found == ground.old || found == ground.new, "a mixture: {call} {number}");
            if !died {
                assert!(found == ground.new);
                assert_ne!(ground.inode(), inode, "made beside");
            }
            if found == ground.new {
                news += 1;
                assert_eq!(client.sync(&ground.after, &ground.before, false).skipped, vec![]);
            } else {
                olds += 1;
            }
            client.leave();
            if !died {
                break;
            }
        }
    }
    assert!(olds >= 3 && news >= 4, "{olds} times old, {news} times new");
}

fn write_at(file: &Path, at: SeekFrom, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(file).unwrap();
    file.seek(at).unwrap();
    file.write_all(bytes).unwrap();
}

/// A hub is killed at a call on the file that it patches, the app writes into it, and that is left.
fn others_write(longer: isize, kill: &str, write: impl Fn(&Path)) -> Option<(Ground, Vec<u8>)> {
    let ground = Ground::new(longer)?;
    assert!(ground.patched_with(Some(&ground.file()), &[&format!("{kill}:signal=KILL")]));
    assert!(!no_records(&ground.state) && ground.content() != ground.old, "killed half-way");
    write(&ground.file());
    let left = ground.content();
    Some((ground, left))
}

/// What others wrote stands, and is kept aside before what is wanted takes its place.
fn is_kept(ground: &Ground, left: &[u8]) {
    let (mut client, found) = ground.found_by_the_next();
    assert!(found == left, "written over");
    let outcome = client.sync(&Tree::new(&[]), &ground.after, false);
    assert_eq!(outcome.overwritten, ["0/f"]);
    assert!(ground.content() == ground.new);
    let kept = listing(&ground.state);
    let kept: Vec<_> = kept.iter().filter(|(name, _)| name.contains("/trash/")).collect();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].1.as_bytes() == left);
    client.leave();
}

#[test]
fn i4_what_was_appended_to_a_patch_that_was_cut_off_is_kept() {
    let append = |file: &Path| write_at(file, SeekFrom::End(0), b"theirs");
    for longer in [0, 100, -100] {
        let Some((ground, left)) = others_write(longer, "pwrite64:when=2", append) else { return };
        is_kept(&ground, &left);
    }
}

#[test]
fn i4_what_was_written_where_a_patch_was_cut_off_is_kept() {
    for place in [PLACES[0], PLACES[2] + 3] {
        let write = |file: &Path| write_at(file, SeekFrom::Start(place as u64), b"theirs");
        let Some((ground, left)) = others_write(0, "pwrite64:when=2", write) else { return };
        is_kept(&ground, &left);
    }
}

#[test]
fn i4_what_was_written_where_a_file_was_to_end_is_kept() {
    let write = |file: &Path| write_at(file, SeekFrom::End(-50), b"theirs");
    let Some((ground, left)) = others_write(-100, "ftruncate", write) else { return };
    assert_eq!(left.len(), SIZE, "it was not cut yet");
    is_kept(&ground, &left);
}

/// Elsewhere in the file it is in nobody's way.
#[test]
fn i4_what_was_written_beside_a_patch_that_was_cut_off_stays() {
    let write = |file: &Path| write_at(file, SeekFrom::Start(20 << 20), b"theirs");
    let Some((ground, _)) = others_write(0, "pwrite64:when=2", write) else { return };
    let (client, found) = ground.found_by_the_next();
    let mut wanted = ground.new.clone();
    wanted[20 << 20..(20 << 20) + 6].copy_from_slice(b"theirs");
    assert!(found == wanted);
    client.leave();
}
