//! Says once that directories are polled instead of watched, and why; `status` says it all the time.

use super::Daemon;
use super::answers::degraded_words;
use crate::report::Event;

impl Daemon {
    /// Says what is new of it.
    pub(super) fn tell_shortages(&mut self) {
        let mut news = Vec::new();
        for degraded in self.source.watches().flat_map(|watch| watch.degraded()) {
            if self.shortages.insert(degraded.shortage) {
                news.push(Event::Degraded { what: degraded_words(&degraded).into() });
            }
        }
        for event in news {
            self.say(event);
        }
    }
}
