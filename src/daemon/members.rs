//! Second watches of the workspace: who takes part, which targets each wants, and the way of a
//! target that nobody wants any more.
//!
//! A target is there as long as somebody wants it: the daemon's own for as long as it lives, others
//! for as long as the connection of one who asked for them. One that nobody wants any more is
//! forgotten by the session at once and stays here until its hub has let go, so that whoever comes
//! for the same place meanwhile waits for that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use e2ek_sidecar::wire::ToHub;
use tokio::task::{AbortHandle, JoinSet};

use super::groups::{Change, Group, GroupId, Opened};
use super::link::Outgoing;
use super::target::Target;
use super::{Daemon, settings};
use crate::config::Forward;
use crate::control::{Call, Joining, LastWord, Reply, Request, Wanted};
use crate::engine::session::{Input, TargetId};
use crate::error::Error;
use crate::report::{Event, Text};

/// Who takes part beside the daemon itself.
#[derive(Default)]
pub(super) struct Members {
    /// Names are not used twice.
    next: u64,
    all: BTreeMap<u64, Member>,
    /// Resolves for each that wants to leave or is gone.
    leaving: JoinSet<u64>,
    /// Those who ask for a place that is just being let go of.
    waiting: Vec<Call>,
    /// Those who asked that a target be let go of.
    stopping: Vec<(TargetId, Call)>,
}

struct Member {
    targets: Vec<TargetId>,
    groups: Vec<GroupId>,
    /// End the carrying of connections into pods.
    forwards: Vec<AbortHandle>,
    last: LastWord,
    /// It waits until its targets are let go of.
    left: bool,
}

impl Members {
    /// The next that wants to leave or is gone; never when there is none. Cancel safe.
    pub(super) async fn left(&mut self) -> u64 {
        match self.leaving.join_next().await {
            Some(Ok(member)) => member,
            // Nobody, or a task that was aborted: neither is while the daemon runs.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    fn want(&self, target: TargetId) -> bool {
        self.all.values().any(|member| !member.left && member.targets.contains(&target))
    }

    fn want_group(&self, group: GroupId) -> bool {
        self.all.values().any(|member| !member.left && member.groups.contains(&group))
    }
}

/// What becomes of somebody who asks to join.
pub(super) enum Answer {
    Yes,
    /// When a hub has let go.
    Later,
    No(Error),
}

impl Daemon {
    /// Somebody asks to join.
    pub(super) fn join(&mut self, call: Call) {
        let Request::Join(joining) = &call.request else { return };
        if self.ending.is_some() {
            // Unanswered: whoever asks may be the first soon.
            return;
        }
        match self.may_join(joining) {
            Answer::No(error) => call.answer(Reply::Failed((&error).into())),
            Answer::Later => self.members.waiting.push(call),
            Answer::Yes => {
                let forwards = joining.forwards.iter();
                let forwards: Vec<Forward> =
                    forwards.map(|&(local, remote)| Forward { local, remote }).collect();
                let wanted = joining.targets.iter().filter(|wanted| wanted.workload.is_some());
                let wanted: Vec<Wanted> = wanted.cloned().collect();
                if wanted.is_empty() && forwards.is_empty() {
                    return self.admit(call, Opened::default());
                }
                // Clusters take their time to answer.
                let out = self.groups.out.clone();
                self.tasks.spawn(async move {
                    let opened = Opened::open(wanted, &forwards).await;
                    let _ = out.send(Change::Opened(call, opened)).await;
                });
            }
        }
    }

    /// The workloads of somebody who asks to join were found, or were not.
    pub(super) fn join_opened(&mut self, call: Call, opened: Result<Opened, Error>) {
        let Request::Join(joining) = &call.request else { return };
        if self.ending.is_some() || call.is_gone() {
            return;
        }
        // Much may have happened meanwhile.
        let answer = self.may_join(joining);
        let opened = opened.and_then(|opened| match self.stands_apart(&opened.groups) {
            Some(error) => Err(error),
            None => Ok(opened),
        });
        match (answer, opened) {
            (Answer::No(error), _) | (_, Err(error)) => {
                call.answer(Reply::Failed((&error).into()));
            }
            (Answer::Later, _) => self.members.waiting.push(call),
            (Answer::Yes, Ok(opened)) => self.admit(call, opened),
        }
    }

    /// Why workloads cannot be had beside those that there are.
    fn stands_apart(&self, groups: &[Group]) -> Option<Error> {
        groups.iter().find_map(|group| {
            if let Some((_, there)) = self.groups.same(group) {
                let (theirs, ours) = (&there.wanted.write, &group.wanted.write);
                return (theirs != ours).then(|| Error::differing_settings("write", theirs, ours));
            }
            group.pods.serving.iter().find_map(|place| {
                let wanted = group.wanted_of(place);
                self.targets.values().find_map(|target| match beside(target, &wanted)? {
                    Answer::No(error) => Some(error),
                    Answer::Yes => {
                        let (pod, of) = (&target.name, self.group_name(target));
                        Some(Error::pod_of_another(pod.as_str(), &of))
                    }
                    Answer::Later => None,
                })
            })
        })
    }

    fn group_name(&self, target: &Target) -> String {
        let group = target.group.and_then(|group| self.groups.all.get(&group));
        group.map_or(String::new(), |group| group.name.to_string())
    }

    /// Somebody takes part from now on.
    fn admit(&mut self, call: Call, opened: Opened) {
        let Request::Join(joining) = &call.request else { return };
        let plain = joining.targets.iter().filter(|wanted| wanted.workload.is_none());
        let plain: Vec<Wanted> = plain.cloned().collect();
        let reply = Reply::Joined { pid: std::process::id() };
        let Some(member) = call.admit(reply) else { return };
        let (leaves, last) = member.split();
        let targets = plain.into_iter().map(|wanted| self.bring(wanted)).collect();
        let Opened { groups, forwarded } = opened;
        let groups: Vec<GroupId> =
            groups.into_iter().map(|group| self.bring_group(group)).collect();
        let forwards = groups.first().map(|&first| self.forward(first, forwarded));
        let forwards = forwards.unwrap_or_default();
        let id = self.members.next;
        self.members.next += 1;
        let member = Member { targets, groups: groups.clone(), forwards, last, left: false };
        self.members.all.insert(id, member);
        self.members.leaving.spawn(async move {
            leaves.await;
            id
        });
        // Now that somebody can be told what is wrong with them.
        for group in groups {
            self.follow_pods(group);
        }
    }

    /// The workload of somebody who joins: one that is there, or a new one.
    fn bring_group(&mut self, group: Group) -> GroupId {
        if let Some((id, _)) = self.groups.same(&group) {
            return id;
        }
        self.say(Event::TargetAdded { target: group.name.clone() });
        self.groups.add(group)
    }

    fn may_join(&self, joining: &Joining) -> Answer {
        let sources = |paths: &mut dyn Iterator<Item = &Path>| {
            paths.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let theirs = self.origin.roots();
        if !joining.sources.iter().map(|word| word.as_path()).eq(theirs.iter().map(|p| &**p)) {
            let ours = sources(&mut joining.sources.iter().map(|word| word.as_path()));
            let theirs = sources(&mut theirs.iter().map(|path| &**path));
            return Answer::No(Error::differing_settings("source directory", &theirs, &ours));
        }
        let command = joining.targets.iter().any(|wanted| wanted.command.is_some());
        let shared = settings::shared(&self.config);
        if let Some((name, theirs, ours)) =
            settings::difference(&shared, &joining.settings, command)
        {
            return Answer::No(Error::differing_settings(&name, &theirs, &ours));
        }
        let mut later = false;
        for wanted in &joining.targets {
            if wanted.place.roots.len() != theirs.len() {
                return Answer::No(Error::usage("a target needs a place for each source", vec![]));
            }
            if wanted.workload.is_some() {
                // Its pods are known later.
                continue;
            }
            match self.targets.values().find_map(|target| beside(target, wanted)) {
                None => {}
                Some(Answer::No(error)) => return Answer::No(error),
                Some(Answer::Later) => later = true,
                Some(Answer::Yes) => {}
            }
        }
        if later { Answer::Later } else { Answer::Yes }
    }

    /// The target of somebody who joins: one that is there, or a new one.
    fn bring(&mut self, wanted: Wanted) -> TargetId {
        let there = self.targets.iter().find(|(_, target)| target.wanted.place == wanted.place);
        if let Some((&id, _)) = there {
            return id;
        }
        let id = self.new_target(wanted, false, false);
        let target = &self.targets[&id];
        let (name, command) = (target.name.clone(), target.command());
        self.say(Event::TargetAdded { target: name });
        self.input_to_session(Input::Join { target: id, command });
        id
    }

    /// A member leaves or is gone.
    pub(super) fn member_left(&mut self, id: u64) {
        let Some(member) = self.members.all.get_mut(&id) else { return };
        member.left = true;
        member.forwards.drain(..).for_each(|task| task.abort());
        let (targets, groups) = (member.targets.clone(), member.groups.clone());
        targets.into_iter().for_each(|target| self.unwant(target));
        groups.into_iter().for_each(|group| self.unwant_group(group));
        self.dismiss();
    }

    /// Takes a target away from all who brought it; one that has no other ends.
    pub(super) fn stop_target(&mut self, call: Call) {
        let Request::Stop { target: Some(name) } = &call.request else { return };
        if let Some((id, group)) = self.groups.named(&Text::name(name)) {
            if group.own {
                let error = Error::target_of_the_first(name);
                return call.answer(Reply::Failed((&error).into()));
            }
            return self.stop_group(id, call);
        }
        let named = self.named(name).and_then(|id| match self.is_own(id) {
            true => Err(Error::target_of_the_first(name)),
            false => match self.targets.get(&id).filter(|target| target.group.is_some()) {
                Some(target) => Err(Error::target_of_a_workload(name, &self.group_name(target))),
                None => Ok(id),
            },
        });
        let id = match named {
            Ok(id) => id,
            Err(error) => return call.answer(Reply::Failed((&error).into())),
        };
        for member in self.members.all.values_mut().filter(|m| m.targets.contains(&id)) {
            match member.targets.len() + member.groups.len() {
                1 => member.left = true,
                _ => member.targets.retain(|target| *target != id),
            }
        }
        self.members.stopping.push((id, call));
        self.unwant(id);
    }

    /// Takes a workload away from all who brought it.
    fn stop_group(&mut self, id: GroupId, call: Call) {
        for member in self.members.all.values_mut().filter(|m| m.groups.contains(&id)) {
            match member.targets.len() + member.groups.len() {
                1 => member.left = true,
                _ => member.groups.retain(|group| *group != id),
            }
        }
        self.unwant_group(id);
        self.dismiss();
        call.answer(Reply::Done { generation: None });
    }

    /// Lets a workload go if nobody wants it any more.
    fn unwant_group(&mut self, id: GroupId) {
        let wanted = self.members.want_group(id);
        if wanted || self.groups.all.get(&id).is_none_or(|group| group.own) {
            return;
        }
        let Some(group) = self.groups.all.remove(&id) else { return };
        if let Some(task) = group.task {
            task.abort();
        }
        for member in group.targets.into_values() {
            self.pod_is_gone(member);
        }
        self.say(Event::TargetRemoved { target: group.name });
    }

    /// A workload cannot be had. Its own ends the daemon, another's ends those who asked for it.
    pub(super) fn group_failed(&mut self, id: GroupId, error: Error) {
        if self.groups.all.get(&id).is_none_or(|group| group.own) {
            return self.fail(error);
        }
        self.members_failed(|member| member.groups.contains(&id), &error);
    }

    /// Ends those who asked for what cannot be had.
    fn members_failed(&mut self, wanting: impl Fn(&Member) -> bool, error: &Error) {
        let failed = self.members.all.extract_if(.., |_, member| !member.left && wanting(member));
        let failed: Vec<Member> = failed.map(|(_, member)| member).collect();
        self.say_all();
        for Member { targets, groups, forwards, last, .. } in failed {
            last.say(Reply::Failed(error.into()));
            forwards.into_iter().for_each(|task| task.abort());
            targets.into_iter().for_each(|target| self.unwant(target));
            groups.into_iter().for_each(|group| self.unwant_group(group));
        }
    }

    /// Lets a target go if nobody wants it any more.
    fn unwant(&mut self, id: TargetId) {
        let wanted = self.members.want(id);
        let Some(target) = self.targets.get_mut(&id).filter(|target| !target.own && !wanted) else {
            return;
        };
        if target.leaving.is_some() {
            return;
        }
        self.release(id);
    }

    /// Lets a target go: the session forgets it at once, its hub is given time.
    pub(super) fn release(&mut self, id: TargetId) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.leaving = Some(Instant::now() + target.patience());
        let linked = target.connection.is_some();
        self.input_to_session(Input::Leave(id));
        if linked {
            self.send(id, Outgoing::Message(ToHub::Bye));
        } else {
            self.let_go(id);
        }
    }

    /// A target's hub has let go, or took too long for that.
    pub(super) fn let_go(&mut self, id: TargetId) {
        let Some(target) = self.targets.remove(&id) else { return };
        for event in self.teller.remove(id) {
            self.say(event);
        }
        match target.group {
            None => self.say(Event::TargetRemoved { target: target.name }),
            Some(_) => self.pods_again(),
        }
        for (_, call) in self.members.stopping.extract_if(.., |(of, _)| *of == id) {
            call.answer(Reply::Done { generation: None });
        }
        self.dismiss();
    }

    /// Says good-bye to those whose targets are let go of.
    fn dismiss(&mut self) {
        let targets = &self.targets;
        let is_leaving =
            |id: &TargetId| targets.get(id).is_some_and(|t: &Target| t.leaving.is_some());
        let in_group = |groups: &[GroupId]| {
            let mut leaving = targets.values().filter(|target| target.leaving.is_some());
            leaving.any(|target| target.group.is_some_and(|group| groups.contains(&group)))
        };
        let done = self.members.all.extract_if(.., |_, member| {
            member.left && !member.targets.iter().any(is_leaving) && !in_group(&member.groups)
        });
        let done: Vec<Member> = done.map(|(_, member)| member).collect();
        if !done.is_empty() {
            // The last word comes after what has happened.
            self.say_all();
        }
        for member in done {
            member.last.say(Reply::Done { generation: None });
        }
    }

    /// A target cannot be had. Its own ends the daemon, another's ends those who asked for it.
    pub(super) fn target_failed(&mut self, id: TargetId, error: Error) {
        if self.targets.get(&id).is_none_or(|target| target.own) {
            return self.fail(error);
        }
        let group = self.targets.get(&id).and_then(|target| target.group);
        let wanting = |member: &Member| {
            member.targets.contains(&id) || group.is_some_and(|of| member.groups.contains(&of))
        };
        self.members_failed(wanting, &error);
    }

    /// Gives up on hubs that do not let go, and asks again for those who wait.
    pub(super) fn settle_members(&mut self, now: Instant) {
        let late = self.targets.iter().filter(|(_, t)| t.leaving.is_some_and(|at| at <= now));
        for id in late.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.let_go(id);
        }
        for call in std::mem::take(&mut self.members.waiting) {
            if !call.is_gone() {
                self.join(call);
            }
        }
    }

    /// When [`Self::settle_members`] has something to do.
    pub(super) fn members_deadline(&self) -> Option<Instant> {
        self.targets.values().filter_map(|target| target.leaving).min()
    }
}

/// Whether a target stands in the way of one that is wanted; `None` when it has nothing to do with
/// it.
pub(super) fn beside(target: &Target, wanted: &Wanted) -> Option<Answer> {
    let (there, place) = (&target.wanted.place, &wanted.place);
    let reached_alike = there.process == place.process
        && there.transport == place.transport
        && there.pod == place.pod;
    let nested = there.roots.iter().find_map(|there| {
        let near =
            |root: &Path| root.starts_with(there.as_path()) || there.as_path().starts_with(root);
        place.roots.iter().find(|root| near(root.as_path())).map(|root| (there, root))
    });
    let (there_root, root) = nested.filter(|_| reached_alike)?;
    if target.leaving.is_some() {
        return Some(Answer::Later);
    }
    if there != place {
        let shown = |path: &Path| path.display().to_string();
        let (root, other) = (shown(root.as_path()), shown(there_root.as_path()));
        return Some(Answer::No(Error::nested_target(&root, &other, "this workspace")));
    }
    Some(match (&target.wanted.command, &wanted.command) {
        (theirs, Some(ours)) if theirs.as_ref() != Some(ours) => {
            let words = |command: &crate::control::WantedCommand| {
                let words = command.argv.iter().map(|word| word.0.to_string_lossy());
                words.collect::<Vec<_>>().join(" ")
            };
            let theirs = theirs.as_ref().map(words).unwrap_or_default();
            Answer::No(Error::differing_command(target.name.as_str(), &theirs, &words(ours)))
        }
        _ if target.wanted.write != wanted.write => {
            let (theirs, ours) = (&target.wanted.write, &wanted.write);
            Answer::No(Error::differing_settings("write", theirs, ours))
        }
        _ => Answer::Yes,
    })
}
