//! Owns how a site comes to be: the right to write is taken before anything is touched, then the
//! record is made true again.
//!
//! What a killed hub began is looked at, every managed path is compared by `stat` with what was
//! written, and what somebody changed leaves the record, so that the daemon sends it anew. A session
//! that only looks (`dry_run`) takes no right and leaves no trace.

mod compare;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use self::compare::{Compare, Differences, Seen};
use super::Settings as HubSettings;
use super::ahead::Lane;
use super::apply::{Applying, Parts, Torn};
use super::entry::{Request, name_in, path_of};
use super::replay::{Inside, is_full, make_way};
use super::root::{Found, RootErrorKind, Settings, TargetRoot, WriteMode};
use super::site::Site;
use super::store::{Claim, ClaimError, Loaded, Owner, Registry, Store, StoreError};
use super::target::{FindError, Identity, Target, TargetError, find, ourselves};
use crate::path::{Escaped, SyncPath};
use crate::receive::{Receiver, apply_what_fits};
use crate::tree::{Change, Edit, Node, Snapshot, Stamp};
use crate::wire::{self, Blob, Container, Open, Refusal};

/// Why a site is not opened.
pub(super) enum NotOpened {
    /// It may not be.
    Refused(Refusal),
    /// An earlier hub of the same workspace has not let go yet; ask again, then give this as the
    /// reason.
    Busy(Refusal),
    /// There is no room for the record.
    Full(Refusal),
}

impl From<Refusal> for NotOpened {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Site {
    /// Opens what `open` asks for and makes the record true. Never waits for another hub. In a
    /// container that hides itself `given` is its root, as its wrapper handed it over.
    pub(super) fn open(
        open: &Request,
        settings: &HubSettings,
        given: Option<(Identity, OwnedFd)>,
    ) -> Result<Self, NotOpened> {
        let state = &settings.state;
        if open.roots.is_empty() || open.roots.len() > usize::from(u16::MAX) {
            let why = "a session needs at least one root".to_owned();
            return Err(Refusal::Unusable(why).into());
        }
        let (process, inside) = match &open.container {
            Some(container) => {
                let (process, inside) = enter(container, given, settings.own)?;
                (Some(process), Some(inside))
            }
            None => (open.process.map(pin).transpose()?, None),
        };
        let names = names(open)?;
        let mut site = Self {
            directory: names[0].clone(),
            receiver: Receiver::new(Snapshot::empty(), 0, names.len()),
            roots: Vec::new(),
            process,
            inside,
            store: None,
            applying: Applying::default(),
            ahead: Lane::default(),
            in_place: open.write != wire::WriteMode::Rename,
            parts: Parts::default(),
            torn: Torn::default(),
            epoch: 0,
            populated: false,
            drifted: Vec::new(),
            claims: Vec::new(),
        };
        if open.dry_run {
            site.peek(open, state, &names)?;
        } else {
            let mut taken = site.claim_and_take(open, settings, &names);
            if let Err(NotOpened::Full(_)) = taken
                && make_way(&site.folder(settings, &names))
            {
                // To write is of more use than to write again what a container loses.
                warn!("the state's volume is full; what was kept to be written again is removed");
                site.claims.clear();
                site.roots.clear();
                (site.store, site.inside) = (None, site.inside.take().map(Inside::emptied));
                taken = site.claim_and_take(open, settings, &names);
            }
            taken?;
        }
        site.populated = site.receiver.held().root().is_empty() && site.holds_something();
        Ok(site)
    }

    /// Takes the right to write, then the record.
    fn claim_and_take(
        &mut self,
        open: &Request,
        settings: &HubSettings,
        names: &[PathBuf],
    ) -> Result<(), NotOpened> {
        // The right comes first: not even a directory is made in another's place.
        for (name, root) in names.iter().zip(&open.roots) {
            // In a container by the directory's own name: links lead there under several.
            let own = open.inside().map(|inside| {
                let own = name_in(self.process.as_ref(), path_of(root));
                Path::new("/container:").join(inside).join(below_top(&own))
            });
            let claimed = own.as_deref().unwrap_or(name);
            self.claims.push(claim_root(&settings.state, claimed, open)?);
        }
        self.take(open, settings, names)
    }

    /// Takes the record that belongs to the roots, and makes it true.
    fn take(
        &mut self,
        open: &Request,
        settings: &HubSettings,
        names: &[PathBuf],
    ) -> Result<(), NotOpened> {
        for path in &open.roots {
            let mut root = open_root(path, self.process.as_ref(), open)?;
            // What lies in a container's own root, rather than on a volume, goes with the container.
            let top = self.process.as_ref().filter(|_| self.inside.is_some());
            let mount = top.map_or(0, Target::root_mount);
            let fleeting = mount != 0 && root.identity().mount == mount;
            root.configure(Settings { fleeting, ..root.settings() });
            self.roots.push(Some(Arc::new(root)));
        }
        let dir = &self.folder(settings, names);
        let (mut store, loaded) = open_store(dir, open)?;
        if loaded.damaged {
            warn!("the record of this target was damaged; it is made anew");
        }
        self.keep_journal(&store, &loaded.staged);
        self.finish_patches(&store.redo_folder());
        let staged = loaded.staged.clone();
        let (generation, rebooted) = (loaded.generation, loaded.rebooted);
        self.epoch = loaded.owner.as_ref().map_or(1, |owner| owner.epoch + 1);
        let unfinished = !loaded.unfinished.is_empty();
        let ours = is_ours(&loaded, open);
        let lost = self.lost(dir, &loaded, ours, settings);
        let lost = lost.map_err(|error| unusable(dir, &error))?;
        let (held, changed) = self.believe(loaded, open);
        if lost.is_some() {
            // Nobody changed it: it went with the container.
            self.drifted.clear();
        }
        let owner =
            Owner { workspace: open.workspace, writer: open.writer.clone(), epoch: self.epoch };
        let written = store.set_owner(&owner).and_then(|()| {
            for path in &staged {
                store.forget_staged(path)?;
            }
            if changed || !ours || rebooted || unfinished {
                store.reset(generation, &held)?;
            }
            Ok(())
        });
        written.map_err(|error| unusable(dir, &error))?;
        self.store = Some(store);
        if self.inside.is_some() {
            self.stand(open, lost).map_err(|error| unusable(dir, &error))?;
        }
        Ok(())
    }

    /// Looks, and leaves no trace: nothing is made, swept, claimed or written.
    fn peek(&mut self, open: &Request, state: &Path, names: &[PathBuf]) -> Result<(), NotOpened> {
        for path in &open.roots {
            match open_root(path, self.process.as_ref(), open) {
                Ok(root) => self.roots.push(Some(Arc::new(root))),
                Err(Refusal::NotFound(_)) if self.process.is_none() => self.roots.push(None),
                Err(refusal) => return Err(refusal.into()),
            }
        }
        let dir = state.join("hubs").join(self.folder_name(names));
        let loaded = Store::peek(&dir).map_err(|error| {
            Refusal::Unusable(format!("state folder {}: {error}", dir.display()))
        })?;
        if let Some(loaded) = loaded {
            self.believe(loaded, open);
        }
        Ok(())
    }

    /// Compares what the record says with the disk; returns the true record, and whether it differs.
    fn believe(&mut self, loaded: Loaded, open: &Open) -> (Snapshot, bool) {
        let ours = is_ours(&loaded, open);
        let generation = loaded.generation;
        // What another workspace put there is not ours to delete.
        let (held, unfinished) =
            if ours { (loaded.held, loaded.unfinished) } else { Default::default() };
        let (held, drifted, changed) = self.make_true(&held, &unfinished);
        self.drifted = drifted;
        self.receiver = Receiver::new(held.clone(), generation, self.roots.len());
        (held, changed)
    }

    /// Sweeps what killed hubs staged beside files, and has what we stage there written down.
    fn keep_journal(&mut self, store: &Store, left: &[SyncPath]) {
        for path in left {
            if let Some((root, below)) = self.locate(path) {
                root.sweep_beside(&[below]);
            }
        }
        for (index, root) in self.roots.iter_mut().enumerate() {
            let record = store.staged_journal();
            let top = SyncPath::root().join(index.to_string().as_bytes());
            // Nobody else has them yet.
            if let (Some(root), Ok(top)) = (root.as_mut().and_then(Arc::get_mut), top) {
                root.on_beside(move |below| {
                    if let Ok(path) = top.append(below) {
                        record(&path);
                    }
                });
            }
        }
    }

    /// Whether all that is managed lies there as it was written, by one look at each path.
    pub(super) fn is_as_written(&self) -> bool {
        let found = Compare::new(&self.roots).all(self.receiver.held().root());
        found.edits.is_empty() && self.is_visible()
    }

    /// Compares the record with the disk. Returns the true record, the managed paths that somebody
    /// changed, and whether anything differs.
    fn make_true(&self, held: &Snapshot, unfinished: &[Change]) -> (Snapshot, Vec<SyncPath>, bool) {
        let begun: HashSet<&SyncPath> = unfinished.iter().map(|change| &change.path).collect();
        let compare = Compare::new(&self.roots);
        let Differences { edits, mut drifted } = compare.all(held.root());
        drifted.retain(|path| !begun.contains(path));
        let mut changed = !edits.is_empty();
        let held = held.apply(&edits).unwrap_or_default();
        // A killed hub may have come further than its record: what is complete counts.
        let mut further: Vec<Edit> = Vec::new();
        for change in unfinished.iter().filter(|change| held.entry(&change.path) != change.new) {
            let Some(new) = &change.new else { continue };
            let node = Node::from_entry(new, Stamp::default());
            match compare.seen(|| change.path.clone(), self.stat(&change.path), &node) {
                Seen::Unchanged => further.push((change.path.clone(), Some(node))),
                Seen::Same(node) => further.push((change.path.clone(), Some(node))),
                Seen::Other | Seen::Unknown => {}
            }
        }
        further.sort_by(|a, b| a.0.cmp(&b.0));
        further.dedup_by(|a, b| a.0 == b.0);
        changed |= !further.is_empty();
        let held = apply_what_fits(&held, &mut further);
        (held, drifted, changed)
    }

    fn stat(&self, path: &SyncPath) -> Result<Option<Found>, RootErrorKind> {
        let Some((root, below)) = self.locate(path) else { return Ok(None) };
        root.stat(&below).map_err(|error| error.kind)
    }

    fn folder(&self, settings: &HubSettings, names: &[PathBuf]) -> PathBuf {
        settings.state.join("hubs").join(self.folder_name(names))
    }

    /// The record's folder: named by the roots, and by which directories they are; in a container,
    /// where they are other ones after each start, by the roots alone.
    fn folder_name(&self, names: &[PathBuf]) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, root) in names.iter().zip(&self.roots) {
            hasher.update(name.as_os_str().as_bytes());
            hasher.update(&[0]);
            let root = root.as_ref().filter(|_| self.inside.is_none());
            if let Some(identity) = root.map(|root| root.identity()) {
                hasher.update(&identity.device.to_le_bytes());
                hasher.update(&identity.inode.to_le_bytes());
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    fn holds_something(&self) -> bool {
        let occupied =
            |root: &Arc<TargetRoot>| root.list(&SyncPath::root()).is_ok_and(|l| !l.is_empty());
        self.roots.iter().flatten().any(occupied)
    }
}

fn is_ours(loaded: &Loaded, open: &Open) -> bool {
    loaded.owner.as_ref().is_none_or(|owner| owner.workspace == open.workspace)
}

fn unusable(dir: &Path, error: &std::io::Error) -> NotOpened {
    let refusal = Refusal::Unusable(format!("{}: {error}", dir.display()));
    if is_full(error) { NotOpened::Full(refusal) } else { NotOpened::Refused(refusal) }
}

fn pin(pid: i32) -> Result<Target, Refusal> {
    Target::pin(pid).map_err(|error| refusal_of_process(pid, &error))
}

/// Pins ourselves.
fn enter_own(container: &Container) -> Result<(Target, Inside), NotOpened> {
    let not_here = || Refusal::NotFound("a container of a pod, around this process".to_owned());
    let main = ourselves().ok_or_else(not_here)?;
    let name = &main.identity.name;
    if !container.name.is_empty() && container.name != *name {
        let why = format!("container {}; this hub serves its own, {name}", container.name);
        return Err(Refusal::NotFound(why).into());
    }
    is_meant(&main.identity, container).map_err(NotOpened::Busy)?;
    let target = Target::pin_main(&main).map_err(|error| refusal_of_process(main.pid, &error))?;
    Ok((target, Inside::of(main.identity)))
}

/// Whether a container is, as far as its id says, the one that the daemon means.
pub(super) fn is_meant(identity: &Identity, container: &Container) -> Result<(), Refusal> {
    let checked = identity.check(container.id.as_deref());
    checked.map_err(|error| Refusal::NotFound(words(&error)))
}

/// Pins the main process of a container.
fn enter(
    container: &Container,
    given: Option<(Identity, OwnedFd)>,
    own: bool,
) -> Result<(Target, Inside), NotOpened> {
    if own {
        return enter_own(container);
    }
    let name = (!container.name.is_empty()).then_some(&*container.name);
    let main = match find(name, container.id.as_deref()) {
        Ok(main) => main,
        // It may be about to start, or the cluster about to say so.
        Err(error @ (FindError::Missing { .. } | FindError::Another { .. })) => {
            return Err(NotOpened::Busy(Refusal::NotFound(words(&error))));
        }
        Err(error) => return Err(Refusal::Unusable(words(&error)).into()),
    };
    let given = given.filter(|(identity, _)| *identity == main.identity);
    let pinned = match given {
        // Whoever has the container's rights may hand over anything: that is no reason to stay out.
        Some((_, root)) => Target::pin_given(&main, root).or_else(|_| Target::pin_main(&main)),
        None => Target::pin_main(&main),
    };
    match pinned {
        Ok(target) => Ok((target, Inside::of(main.identity))),
        Err(TargetError::Gone(_)) => {
            let why = format!("container {} has just ended", main.identity.name);
            Err(NotOpened::Busy(Refusal::NotFound(why)))
        }
        Err(TargetError::Denied(_)) => {
            let why = format!("the root of container {}", main.identity.name);
            Err(NotOpened::Busy(Refusal::Forbidden(why)))
        }
        Err(error) => Err(refusal_of_process(main.pid, &error).into()),
    }
}

fn words(error: &FindError) -> String {
    let listed = |seen: &[String]| match seen {
        [] => "no other container runs here, or not with shareProcessNamespace: true".to_owned(),
        seen => format!("running here: {}", seen.join(", ")),
    };
    match error {
        FindError::Missing { wanted, seen } if wanted.is_empty() => listed(seen),
        FindError::Missing { wanted, seen } => {
            format!("container {wanted} is not running; {}", listed(seen))
        }
        FindError::Ambiguous { seen } => format!("which container? {}", listed(seen)),
        FindError::Another { wanted, found, told } => format!(
            "container {wanted} is not the one that the cluster names: {found} runs here, and the \
             pod's status says {told}"
        ),
        FindError::Unreadable(_) => error.to_string(),
    }
}

/// The canonical name of each root, whether or not it is there already.
fn names(open: &Request) -> Result<Vec<PathBuf>, Refusal> {
    let mut names: Vec<PathBuf> = Vec::with_capacity(open.roots.len());
    for path in &open.roots {
        let path = path_of(path);
        let below = below_top(path);
        let name = match (open.inside(), open.process) {
            // No directory's name, and the same however often the container is started.
            (Some(name), _) => Path::new("/container:").join(name).join(below),
            (None, Some(pid)) => PathBuf::from(format!("/proc/{pid}/root")).join(below),
            (None, None) => canonical(path).map_err(|error| refusal_of_path(path, &error))?,
        };
        let near = |other: &&PathBuf| other.starts_with(&name) || name.starts_with(other);
        if let Some(other) = names.iter().find(near) {
            let root = Escaped(other.as_os_str().as_bytes()).to_string();
            return Err(Refusal::Nested { root, by: open.writer.clone() });
        }
        names.push(name);
    }
    Ok(names)
}

fn below_top(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn canonical(path: &Path) -> std::io::Result<PathBuf> {
    match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
        (Err(error), Some(above), Some(name)) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            Ok(std::fs::canonicalize(above)?.join(name))
        }
        (canonical, ..) => canonical,
    }
}

fn refusal_of_path(path: &Path, error: &std::io::Error) -> Refusal {
    let shown = Escaped(path.as_os_str().as_bytes()).to_string();
    match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::NotFound(shown),
        std::io::ErrorKind::PermissionDenied => Refusal::Forbidden(shown),
        std::io::ErrorKind::NotADirectory => {
            Refusal::Unusable(format!("{shown} is not a directory"))
        }
        _ => Refusal::Unusable(format!("{shown}: {error}")),
    }
}

fn open_root(path: &Blob, process: Option<&Target>, open: &Open) -> Result<TargetRoot, Refusal> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&path.0));
    let shown = Escaped(path.as_os_str().as_bytes()).to_string();
    let opened = match process {
        Some(process) if open.dry_run => TargetRoot::look_in_process(process, path),
        Some(process) => TargetRoot::open_in_process(process, path),
        None if open.dry_run => TargetRoot::look_at_directory(path),
        None => TargetRoot::open_directory(path, true),
    };
    let mut root = opened.map_err(|error| match error.kind {
        RootErrorKind::NotFound => Refusal::NotFound(shown.clone()),
        RootErrorKind::Denied => Refusal::Forbidden(shown.clone()),
        RootErrorKind::NotADirectory => Refusal::Unusable(format!("{shown} is not a directory")),
        _ => Refusal::Unusable(format!("{shown}: {error}")),
    })?;
    let write = match open.write {
        wire::WriteMode::Auto | wire::WriteMode::Rename => WriteMode::Rename,
        wire::WriteMode::InPlace => WriteMode::InPlace,
    };
    root.configure(Settings { write, ..root.settings() });
    Ok(root)
}

fn refusal_of_process(pid: i32, error: &TargetError) -> Refusal {
    match error {
        TargetError::Gone(_) => Refusal::NotFound(format!("process {pid}")),
        TargetError::Denied(_) => Refusal::Forbidden(format!("process {pid}: {error}")),
        _ => Refusal::Unusable(format!("process {pid}: {error}")),
    }
}

fn open_store(dir: &Path, open: &Open) -> Result<(Store, Loaded), NotOpened> {
    Store::open(dir).map_err(|error| match error {
        StoreError::Locked { owner } => {
            let ours = owner.as_ref().is_none_or(|owner| owner.workspace == open.workspace);
            let by = owner.map_or_else(|| "another hub".to_owned(), |owner| owner.writer);
            let refusal = Refusal::Owned { by, active: true };
            if ours { NotOpened::Busy(refusal) } else { NotOpened::Refused(refusal) }
        }
        StoreError::Io { path, source } => {
            let refusal = Refusal::Unusable(format!("state folder {}: {source}", path.display()));
            if is_full(&source) { NotOpened::Full(refusal) } else { refusal.into() }
        }
    })
}

fn claim_root(state: &Path, canonical: &Path, open: &Open) -> Result<Claim, NotOpened> {
    Registry::claim(state, canonical, &open.writer).map_err(|error| match error {
        ClaimError::Clash(clash) => {
            // A claim does not name its workspace; user, host and source together do.
            let ours = clash.writer == open.writer;
            let refusal = if clash.same {
                Refusal::Owned { by: clash.writer, active: true }
            } else {
                let root = Escaped(clash.root.as_os_str().as_bytes()).to_string();
                Refusal::Nested { root, by: clash.writer }
            };
            if ours { NotOpened::Busy(refusal) } else { NotOpened::Refused(refusal) }
        }
        ClaimError::Io { ref source, .. } if is_full(source) => {
            NotOpened::Full(Refusal::Unusable(error.to_string()))
        }
        other => Refusal::Unusable(other.to_string()).into(),
    })
}
