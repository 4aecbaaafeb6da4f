//! When a target's command is started and restarted: what changed paths ask of it, the wait for
//! quiet, and what was asked of the hub and is not known to be done.
//!
//! A restart that was asked for on a link that was lost is asked for again on the next one. What is
//! asked for goes out before `Run`: a hub whose command still runs obeys, and then goes on with it;
//! a hub that has none ignores it, and its start covers everything.

use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, ActionSet};
use e2ek_sidecar::wire::{ChildEvent, CommandSpec, ToHub};

use super::{Effect, Notice, Settings, TargetId};

/// What is to be done once it is quiet.
struct Settling {
    actions: ActionSet,
    /// Asked for by generations up to this.
    generation: u64,
    /// Acts at this time, moved by every change.
    quiet_at: Instant,
    /// At the latest then.
    latest: Instant,
    /// At the latest then although git is busy.
    latest_git: Instant,
    /// Changed paths ask for a restart.
    saves: bool,
    /// Some of the paths that need a new image.
    build: Vec<SyncPath>,
}

/// A restart asked for on this link that the hub has not told of yet.
struct Asked {
    /// For generations up to this.
    generation: u64,
    actions: ActionSet,
    /// See [`Settling::saves`].
    saves: bool,
    /// `Run` was asked for before and may be unanswered: the next `Started` is of that.
    after_run: bool,
}

/// Paths that need a new image and are told by name.
const BUILD_PATHS: usize = 10;

impl Settling {
    fn new(now: Instant, generation: u64, settings: &Settings) -> Self {
        Self {
            actions: ActionSet::default(),
            generation,
            quiet_at: now,
            latest: now + settings.settle_at_most,
            latest_git: now + settings.git_at_most,
            saves: false,
            build: Vec::new(),
        }
    }

    fn due(&self) -> Instant {
        self.quiet_at.min(self.latest)
    }
}

/// One target's command. Exists also where none is configured: rules may tell of paths that need a
/// new image.
#[derive(Default)]
pub(super) struct Command {
    /// What is run; none where rules only tell.
    spec: Option<CommandSpec>,
    settling: Option<Settling>,
    unconfirmed: Option<Asked>,
    /// `Run` was sent on this link, and no `Started` came since.
    run_open: bool,
    /// The target was current on this link: `Run` may be sent.
    ready: bool,
    /// The target was equal to the source once.
    was_current: bool,
    /// `Run` was sent on this link.
    started: bool,
    /// A hub whose command is none of ours was told on this link that the files are there.
    told_ready: bool,
    ever_started: bool,
    /// The newest generation that the hub was sent, or has.
    newest: u64,
    pub(super) restarts: u64,
    /// The newest generation for which the command was restarted, or needs no restart.
    pub(super) restarted: u64,
    pub(super) needs_build: u64,
    /// The last thing known of it.
    pub(super) child: Option<ChildEvent>,
}

impl Command {
    pub(super) fn new(spec: Option<CommandSpec>) -> Self {
        Self { spec, ..Self::default() }
    }

    /// Adds what changed paths ask for; the wait for quiet begins anew.
    pub(super) fn settle<'a>(
        &mut self,
        now: Instant,
        generation: u64,
        paths: impl Iterator<Item = &'a SyncPath>,
        settings: &Settings,
    ) {
        self.newest = self.newest.max(generation);
        let mut build = Vec::new();
        let mut actions = ActionSet::default();
        for path in paths {
            for action in (settings.rules)(path) {
                // What is there from the start is what the image was built from.
                match action {
                    Action::NeedsBuild if !self.was_current => continue,
                    Action::NeedsBuild => build.push(path.clone()),
                    _ => {}
                }
                actions.add(action);
            }
        }
        self.needs_build += u64::from(actions.needs_build);
        if !actions.is_empty() && self.spec.is_some() {
            // Also of a number that it had already: files that were lost at the target come again.
            self.restarted = self.restarted.min(generation.saturating_sub(1));
        }
        if actions.is_empty() && self.settling.is_none() {
            return;
        }
        let settling =
            self.settling.get_or_insert_with(|| Settling::new(now, generation, settings));
        settling.saves |= actions.restart;
        settling.actions.merge(actions);
        settling.build.extend(build);
        settling.build.truncate(BUILD_PATHS);
        settling.generation = settling.generation.max(generation);
        settling.quiet_at = now + settings.settle;
    }

    /// A change, also one that needs no restart or cannot be sent yet, means that it is not quiet.
    pub(super) fn source_changed(&mut self, now: Instant, settings: &Settings) {
        if let Some(settling) = &mut self.settling {
            settling.quiet_at = settling.quiet_at.max(now + settings.settle);
        }
    }

    /// Restarts without a wait, with all that waits. A command that is still to be started needs none.
    pub(super) fn restart_now(&mut self, now: Instant, generation: u64, settings: &Settings) {
        if self.spec.is_none() || !self.ever_started {
            return;
        }
        let settling =
            self.settling.get_or_insert_with(|| Settling::new(now, generation, settings));
        settling.actions.add(Action::Restart);
        settling.generation = settling.generation.max(generation);
        (settling.quiet_at, settling.latest, settling.latest_git) = (now, now, now);
    }

    /// The target has all of the source up to this generation.
    pub(super) fn current(&mut self, id: TargetId, generation: u64, effects: &mut Vec<Effect>) {
        self.newest = self.newest.max(generation);
        self.ready = true;
        self.was_current = true;
        // The first start waits for nothing; after a reconnect changes may still be coming.
        if !self.started && (self.settling.is_none() || !self.ever_started) {
            self.act(id, effects);
        }
        if self.settling.is_none() && self.unconfirmed.is_none() {
            self.restarted = generation;
        }
        if self.spec.is_none() && !std::mem::replace(&mut self.told_ready, true) {
            let actions = ActionSet::default();
            effects.push(Effect::Send(id, ToHub::Act { generation, actions }));
        }
    }

    /// Acts when it is time. `can_send`: what was sent so far is all the hub needs, in order; `awaits`:
    /// large content of what was saved is still on its way.
    pub(super) fn tick(
        &mut self,
        now: Instant,
        git_busy: bool,
        (can_send, awaits): (bool, bool),
        id: TargetId,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let may_act = can_send && self.may_act();
        let Some(settling) = self.settling.as_mut().filter(|s| may_act && s.due() <= now) else {
            return;
        };
        if awaits && now < settling.latest_git {
            return;
        }
        if git_busy && now < settling.latest_git {
            settling.quiet_at = now + settings.settle;
            settling.latest = now + settings.settle_at_most;
            settling.latest = settling.latest.min(settling.latest_git.max(settling.quiet_at));
            return;
        }
        self.act(id, effects);
    }

    /// Nothing is asked of a command that is not there yet: its start comes first.
    fn may_act(&self) -> bool {
        self.started || self.ready || self.spec.is_none()
    }

    fn act(&mut self, id: TargetId, effects: &mut Vec<Effect>) {
        let Settling { mut actions, generation, saves, build, .. } = match self.settling.take() {
            Some(settling) => settling,
            None => return self.start(id, effects),
        };
        // What was asked for on a link that is lost was of older files than those that came since.
        let generation = generation.max(self.newest);
        let work = actions.restart || !actions.commands.is_empty() || !actions.signals.is_empty();
        if work && self.spec.is_some() {
            let message = ToHub::Act { generation, actions: actions.clone() };
            effects.push(Effect::Send(id, message));
            if actions.restart {
                let (actions, after_run) = (actions.clone(), self.run_open);
                self.unconfirmed = Some(Asked { generation, actions, saves, after_run });
            }
        }
        if self.unconfirmed.is_none() {
            self.restarted = self.restarted.max(generation);
        }
        if self.spec.is_none() || !self.ever_started {
            // What people see is the start; without a command nothing is restarted.
            actions = ActionSet { needs_build: actions.needs_build, ..ActionSet::default() };
        }
        if !actions.is_empty() || self.started {
            let notice = Notice::Acted { target: id, generation, actions, saves, build };
            effects.push(Effect::Say(notice));
        }
        self.start(id, effects);
    }

    fn start(&mut self, id: TargetId, effects: &mut Vec<Effect>) {
        if let Some(command) = &self.spec
            && !std::mem::replace(&mut self.started, true)
        {
            if std::mem::replace(&mut self.ever_started, true) {
                // What the lost link left open is asked for by now. A daemon that was started anew
                // does not know, and the hub restarts a command that was owed it.
                let (generation, actions) = (self.newest, ActionSet::default());
                effects.push(Effect::Send(id, ToHub::Act { generation, actions }));
            }
            self.run_open = true;
            effects.push(Effect::Send(id, ToHub::Run(command.clone())));
        }
    }

    /// The hub tells of the command.
    pub(super) fn child(&mut self, event: &ChildEvent) {
        self.restarts += u64::from(matches!(event, ChildEvent::Restarted { .. }));
        let answers_run =
            matches!(event, ChildEvent::Started { .. }) && std::mem::take(&mut self.run_open);
        let over = match event {
            ChildEvent::Restarted { generation, .. } => {
                self.unconfirmed.as_ref().is_some_and(|asked| *generation >= asked.generation)
            }
            // Its own end is followed by the start that was asked for.
            ChildEvent::Exited { .. }
            | ChildEvent::Signalled { .. }
            | ChildEvent::Backoff { .. }
            | ChildEvent::Ran { status: 0, .. } => false,
            // Started anew, or not to be restarted.
            ChildEvent::Started { .. }
            | ChildEvent::Failed { .. }
            | ChildEvent::Stopped { .. }
            | ChildEvent::Interrupted
            | ChildEvent::NotDone { .. }
            | ChildEvent::Ran { .. } => true,
        };
        let kept = self.unconfirmed.as_mut().filter(|asked| answers_run && asked.after_run);
        if let Some(asked) = kept {
            // It may not have come as far as the restart: asked for again if the link is lost now. A
            // hub that has no process just then does not answer `Run`, so nobody waits for more.
            asked.after_run = false;
            self.restarted = self.restarted.max(asked.generation);
        } else if over && let Some(asked) = self.unconfirmed.take() {
            self.restarted = self.restarted.max(asked.generation);
        }
        let says_nothing = matches!(
            event,
            ChildEvent::Ran { .. } | ChildEvent::Signalled { .. } | ChildEvent::NotDone { .. }
        );
        if !says_nothing {
            self.child = Some(event.clone());
        }
    }

    /// The link is lost, and with it perhaps what was asked for last.
    pub(super) fn link_down(&mut self, now: Instant, settings: &Settings) {
        self.started = false;
        self.told_ready = false;
        self.ready = false;
        self.run_open = false;
        if let Some(Asked { generation, actions, saves, .. }) = self.unconfirmed.take() {
            let settling =
                self.settling.get_or_insert_with(|| Settling::new(now, generation, settings));
            settling.saves |= saves;
            let later = std::mem::replace(&mut settling.actions, actions);
            settling.actions.needs_build = 0;
            settling.actions.merge(later);
        }
    }

    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// When [`Self::tick`] is due, if it can do anything then.
    pub(super) fn deadline(&self, can_send: bool, awaits: bool) -> Option<Instant> {
        let settling = self.settling.as_ref().filter(|_| can_send && self.may_act());
        settling.map(|settling| match awaits {
            true => settling.latest_git.max(settling.due()),
            false => settling.due(),
        })
    }
}
