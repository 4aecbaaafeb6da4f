//! Owns the following of single names in folders in which nothing else matters.
//!
//! One inotify for all of them, read by the task that waits: no thread, and no wake-up while nothing
//! happens to them. What cannot be watched is told of every two seconds, whether it changed or not.

use std::collections::HashMap;
use std::path::PathBuf;

use rustix::fs::inotify::ReadFlags;
use tokio::time::{sleep, timeout};

use super::queue::{Events, Queue};
use super::{Names, POLL_EVERY};

/// Follows names in folders until dropped.
pub struct Folders {
    names: Names,
    follower: Option<Follower>,
}

/// The watches as they stand.
struct Follower {
    queue: Queue,
    events: Events,
    /// The folders by their watches.
    folders: HashMap<i32, PathBuf>,
    /// All of them are watched.
    whole: bool,
}

/// What events told.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum News {
    None,
    /// Something happened to one of the names.
    Named,
    /// A folder's path may lead elsewhere, or events were lost.
    Moved,
}

impl Folders {
    /// For these names.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self { names, follower: None }
    }

    /// Waits until one of the names may have come, changed or gone, or its folder have become another
    /// one. Returns at once the first time, when the watches stand: what was read before counts as
    /// changed. To be called within a runtime with its drivers of time and I/O.
    ///
    /// # Cancel safety
    /// What happens while nobody waits is told by the next call; one that is dropped may take along what
    /// it was about to tell.
    pub async fn next(&mut self) {
        loop {
            let Some(follower) = &mut self.follower else {
                self.follower = Follower::new(&self.names);
                if self.follower.is_none() {
                    sleep(POLL_EVERY).await;
                }
                return;
            };
            match follower.next(&self.names).await {
                News::None => {}
                News::Named => return,
                News::Moved => self.follower = None,
            }
        }
    }
}

impl Follower {
    /// `None` when there is no inotify to be had.
    fn new(names: &Names) -> Option<Self> {
        let queue = Queue::new().ok()?;
        let events = queue.events().ok()?;
        let (mut folders, mut whole) = (HashMap::new(), true);
        for folder in names.keys() {
            for above in folder.ancestors().skip(1) {
                // One that cannot be watched belongs to others, who do not move it.
                let _ = queue.watch_self(above);
            }
            match queue.watch_names(folder) {
                Ok(watch) => drop(folders.insert(watch, folder.clone())),
                Err(_) => whole = false,
            }
        }
        Some(Self { queue, events, folders, whole })
    }

    async fn next(&mut self, names: &Names) -> News {
        let readable = self.events.readable();
        let ready = match self.whole {
            true => readable.await,
            false => match timeout(POLL_EVERY, readable).await {
                Ok(ready) => ready,
                Err(_) => return News::Moved,
            },
        };
        let Ok(mut ready) = ready else { return News::Moved };
        self.queue.fetch();
        // Emptied: what came since counts as a new readiness.
        ready.clear_ready();
        let mut news = News::None;
        if self.queue.take_overflow() {
            news = News::Moved;
        }
        while let Some(event) = self.queue.pop() {
            let itself = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::IGNORED;
            let named = self.folders.get(&event.watch).and_then(|folder| names.get(folder));
            news = news.max(match named {
                _ if event.mask.intersects(itself | ReadFlags::UNMOUNT) => News::Moved,
                Some(named) if named.contains(&*event.name) => News::Named,
                _ => News::None,
            });
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn names_are_followed_through_whatever_becomes_of_their_folders() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().canonicalize().unwrap();
        let [one, two] = ["above/one", "two"].map(|name| top.join(name));
        for folder in [&one, &two] {
            fs::create_dir_all(folder).unwrap();
        }
        let names = |name: &str| BTreeSet::from([name.as_bytes().to_vec()]);
        let both = [(one.clone(), names("a")), (two.clone(), names("b"))];
        let mut folders = Folders::new(Names::from(both));
        let told = async |folders: &mut Folders| {
            let told = tokio::time::timeout(Duration::from_secs(60), folders.next()).await;
            told.expect("it is told");
        };
        // One event each.
        let save = |file: PathBuf| {
            fs::write(top.join("aside"), "").unwrap();
            fs::rename(top.join("aside"), file).unwrap();
        };
        let whole = |folders: &Folders| folders.follower.as_ref().is_some_and(|f| f.whole);
        told(&mut folders).await;
        save(one.join("a"));
        told(&mut folders).await;
        save(two.join("b"));
        told(&mut folders).await;
        // What lies above moves, and another directory takes its place.
        fs::rename(top.join("above"), top.join("before")).unwrap();
        told(&mut folders).await;
        assert!(!whole(&folders));
        fs::create_dir_all(&one).unwrap();
        while !whole(&folders) {
            told(&mut folders).await;
        }
        save(one.join("a"));
        told(&mut folders).await;
        assert!(whole(&folders));
        fs::remove_dir_all(&two).unwrap();
        while whole(&folders) {
            told(&mut folders).await;
        }
    }
}
