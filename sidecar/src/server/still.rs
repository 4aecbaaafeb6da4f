//! Owns the look at what lies at a target while its next link comes up.
//!
//! Whoever comes back finds a target that was compared with its record: what somebody changed leaves that,
//! and is sent anew. Of 100,000 files that takes 0.1 s and more, and making the record from its files as
//! much again. A link that is lost is mostly made again at once, which takes as long: so the look is
//! taken meanwhile, and where all is as it was written, nothing is opened anew. In a container only,
//! where hubs have sites to themselves and links are long on their way.

use std::time::{Duration, Instant};

use tracing::debug;

use super::entry::Request;
use super::site::Site;
use super::{Hub, Serving};

/// For how long a look counts: as it takes to come back after a cut, and no longer than a reader of the
/// target would call the same moment.
const COUNTS_FOR: Duration = Duration::from_secs(2);

/// Whether what lies at a target was looked at since its link was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Looked {
    No,
    Due,
    /// All was as it was written when this look began.
    Still(Instant),
}

impl Looked {
    /// What a site begins with whose link is lost.
    pub(super) fn due(serving: &Serving) -> Self {
        let is_worth_it = serving.open.container.is_some() && !serving.site.is_dry();
        if is_worth_it { Self::Due } else { Self::No }
    }
}

impl Serving {
    /// Whether `open` may go on with this site as it is: it asks for the same, and all was there a
    /// moment ago.
    pub(super) fn is_as_left(&self, open: &Request, now: Instant) -> bool {
        let Looked::Still(at) = self.looked else { return false };
        let recent = now.saturating_duration_since(at) <= COUNTS_FOR;
        recent && self.open.lasting() == open.lasting()
    }
}

impl Hub {
    pub(super) fn has_to_look(&self) -> bool {
        self.to_look_at().is_some()
    }

    fn to_look_at(&self) -> Option<usize> {
        self.sites.iter().position(|serving| serving.looked == Looked::Due)
    }

    /// Looks at the targets whose links were lost.
    pub(super) async fn look(&mut self) {
        let Some(at) = self.to_look_at() else { return };
        let began = Instant::now();
        let look = |site: &mut Site| {
            site.tidy();
            // Whether something lies there where nothing is managed is looked at when it is opened.
            !site.receiver.held().root().is_empty() && site.is_as_written()
        };
        let still = self.at_site(at, true, look).await;
        debug!(still, took = ?began.elapsed(), "looked, the link being lost");
        self.sites[at].looked = if still { Looked::Still(began) } else { Looked::No };
    }
}
