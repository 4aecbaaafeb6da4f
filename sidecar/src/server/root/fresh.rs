//! Owns the short way of a new file whose content is at hand: nothing is looked at before, since
//! the rename itself refuses a name that is taken.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, RenameFlags};

use super::TargetRoot;
use super::beneath::Directory;
use super::error::{Fault, RootError, RootErrorKind};
use super::found::look_at;
use super::put::{PutMeta, mode_for, set_mtime};
use super::split;
use super::staged::Staged;
use crate::path::SyncPath;
use crate::tree::Stamp;

/// The directory that new files were put into last, for the next ones. It is kept only as long as
/// one frame of content is written: what holds for the call that is under way when a directory is
/// moved holds for those.
#[derive(Default)]
pub struct Within<'a>(Option<Held<'a>>);

struct Held<'a> {
    path: Vec<u8>,
    directory: Directory<'a>,
    /// Who owns what is new in it.
    owner: (u32, u32),
}

impl TargetRoot {
    /// Makes a file that is not there yet: seven system calls, and two more for the first of a
    /// directory. Old or new (I1) as with [`TargetRoot::put`].
    ///
    /// # Errors
    /// Whenever anything is out of the ordinary: something stands there, another mount, a file
    /// system whose rename cannot refuse. Nothing is left then; [`TargetRoot::put`] knows the way.
    pub fn put_new<'a>(
        &'a self,
        path: &SyncPath,
        content: &[u8],
        meta: &PutMeta,
        within: &mut Within<'a>,
    ) -> Result<Stamp, RootError> {
        self.make_new(path, content, meta, within).map_err(|fault| fault.at("write", path))
    }

    fn make_new<'a>(
        &'a self,
        path: &SyncPath,
        content: &[u8],
        meta: &PutMeta,
        within: &mut Within<'a>,
    ) -> Result<Stamp, Fault> {
        if path.is_root() || path.components().any(super::is_ours) {
            return Err(RootErrorKind::Reserved.into());
        }
        let (parent, name) = split(path);
        let held = match within.0.take_if(|held| held.path == parent) {
            Some(held) => held,
            None => self.hold_directory(parent)?,
        };
        let held = within.0.insert(held);
        let mut staged = self.make_staged(path, content.len() as u64)?;
        staged.append(content)?;
        self.dress_new(&staged, held.owner, meta)?;
        install_new(&mut staged, held.directory.as_fd(), name)?;
        Ok(look_at(staged.fd())?.stamp)
    }

    fn hold_directory(&self, path: &[u8]) -> Result<Held<'_>, Fault> {
        let directory = self.resolver.directory(self.fd.as_fd(), path)?;
        let owner = self.owner_in(directory.as_fd())?;
        Ok(Held { path: path.to_vec(), directory, owner })
    }

    /// Gives a new file its owner, mode and time, in this order.
    fn dress_new(&self, staged: &Staged, owner: (u32, u32), meta: &PutMeta) -> Result<(), Fault> {
        if (owner.0, Some(owner.1)) != (self.us.0, staged.gid(self.us.1)) {
            self.give(staged.fd(), owner.0, owner.1)?;
        }
        rustix::fs::fchmod(staged.fd(), Mode::from(mode_for(None, meta)))?;
        set_mtime(staged.fd(), None, meta, staged.len())
    }
}

fn install_new(staged: &mut Staged, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Fault> {
    let (aside, from) = staged.name()?;
    rustix::fs::renameat_with(aside, from, directory, name, RenameFlags::NOREPLACE)?;
    staged.placed();
    Ok(())
}
