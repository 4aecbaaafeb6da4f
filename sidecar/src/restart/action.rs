//! Owns the ladder of what a changed path asks for, and how many such wishes become one.

use serde::{Deserialize, Serialize};

use super::Signal;

/// What a change of one path asks of the command. A rule of e2ek.toml names one per pattern.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// The app notices by itself.
    Nothing,
    /// A signal to the main process (not its group: reload signals are addressed to one).
    Signal(Signal),
    /// A command (argv, no shell) that must succeed first; a restart is asked for separately.
    Run(Vec<String>),
    /// Stop and start again.
    Restart,
    /// In-place updating cannot reproduce this change: told, not done.
    NeedsBuild,
}

/// The merged wishes of one settle window. Merging is associative, and never drops a wish.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ActionSet {
    /// To be run one after another, in the order in which they were first asked for; no repeats.
    pub commands: Vec<Vec<String>>,
    /// To be sent in this order; no repeats. A restart covers them: then they are not sent.
    pub signals: Vec<Signal>,
    /// Whether to stop and start again.
    pub restart: bool,
    /// How many paths need a new image; only ever told.
    pub needs_build: u32,
}

impl ActionSet {
    /// Adds the wish of one path.
    pub fn add(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Signal(signal) => push_new(&mut self.signals, signal),
            Action::Run(argv) => push_new(&mut self.commands, argv),
            Action::Restart => self.restart = true,
            Action::NeedsBuild => self.needs_build = self.needs_build.saturating_add(1),
        }
    }

    /// Adds the wishes of a later window.
    pub fn merge(&mut self, later: Self) {
        for argv in later.commands {
            push_new(&mut self.commands, argv);
        }
        for signal in later.signals {
            push_new(&mut self.signals, signal);
        }
        self.restart |= later.restart;
        self.needs_build = self.needs_build.saturating_add(later.needs_build);
    }

    /// Whether there is nothing to do, and nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FromIterator<Action> for ActionSet {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let mut set = Self::default();
        actions.into_iter().for_each(|action| set.add(action));
        set
    }
}

fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Nothing),
            (1..=31).prop_map(|n| Action::Signal(Signal::from_number(n).unwrap())),
            "[ab]{1,2}".prop_map(|word| Action::Run(vec![word])),
            Just(Action::Restart),
            Just(Action::NeedsBuild),
        ]
    }

    proptest! {
        #[test]
        fn merging_windows_equals_one_window(a in prop::collection::vec(action(), 0..8),
                                             b in prop::collection::vec(action(), 0..8)) {
            let mut merged: ActionSet = a.iter().cloned().collect();
            merged.merge(b.iter().cloned().collect());
            prop_assert_eq!(merged, a.into_iter().chain(b).collect::<ActionSet>());
        }
    }

    #[test]
    fn commands_keep_their_order_without_repeats() {
        let run = |word: &str| Action::Run(vec![word.to_owned()]);
        let set: ActionSet = [run("b"), run("a"), run("b"), Action::Restart].into_iter().collect();
        assert_eq!(set.commands, [["b".to_owned()], ["a".to_owned()]]);
        assert!(set.restart);
        assert!([Action::Nothing].into_iter().collect::<ActionSet>().is_empty());
    }
}
