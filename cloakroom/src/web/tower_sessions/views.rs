//! What a record looked like when it was handed out or last saved, so that saving it again writes what changed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Values;
use crate::data::Data;

/// The latest views, by the map of values that was handed out.
#[derive(Default)]
pub(super) struct Views(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    views: HashMap<Mark, View>,
    /// Oldest first.
    order: VecDeque<Mark>,
    bytes: usize,
}

/// Tells a map of values from every other one of this process, but not from its clones: each map is made with hash keys of
/// its own, keeps them while values come and go, and hands them to its clones.
type Mark = [u64; 2];

struct View {
    id: i128,
    data: Data,
}

impl View {
    fn size(&self) -> usize {
        self.data.size() + size_of::<(Mark, Self)>()
    }
}

impl Views {
    const MAX_VIEWS: usize = 64 * 1024;
    const MAX_BYTES: usize = 32 << 20;

    /// What the values of this session were when their map was last seen here. None if it never was, or too many others were
    /// since: then the values are all there is to be, as for any other store.
    pub(super) fn of(&self, id: i128, values: &Values) -> Option<Data> {
        let kept = self.kept();
        kept.views.get(&mark(values)).filter(|view| view.id == id).map(|view| view.data.clone())
    }

    /// Keeps what the values are now.
    pub(super) fn keep(&self, id: i128, values: &Values, data: Data) {
        let (mark, view) = (mark(values), View { id, data });
        let mut kept = self.kept();
        kept.bytes += view.size();
        match kept.views.insert(mark, view) {
            Some(before) => kept.bytes -= before.size(),
            None => kept.order.push_back(mark),
        }
        while kept.views.len() > Self::MAX_VIEWS || kept.bytes > Self::MAX_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            if let Some(view) = kept.views.remove(&oldest) {
                kept.bytes -= view.size();
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark(values: &Values) -> Mark {
    [0_u8, 1].map(|half| values.hasher().hash_one(half))
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").field("kept", &self.kept().views.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Json;

    fn data(text: &str) -> Data {
        [("key".into(), Json::from_stored(text))].into_iter().collect()
    }

    #[test]
    fn a_view_belongs_to_one_map_and_its_clones() {
        let views = Views::default();
        let mut values = Values::new();
        views.keep(1, &values, data("1"));
        values.insert("key".into(), 2.into());
        let clone = values.clone();
        values.clear();
        assert_eq!(views.of(1, &values), Some(data("1")));
        assert_eq!(views.of(1, &clone), Some(data("1")));
        assert_eq!(views.of(2, &values), None, "of another session");
        assert_eq!(views.of(1, &Values::new()), None);
        assert_eq!(views.of(1, &values.into_iter().collect()), None);
        views.keep(1, &clone, data("2"));
        assert_eq!(views.of(1, &clone), Some(data("2")));
    }

    #[test]
    fn old_views_make_room() {
        let views = Views::default();
        let first = Values::new();
        views.keep(0, &first, data("0"));
        for _ in 0..Views::MAX_VIEWS {
            views.keep(1, &Values::new(), Data::new());
        }
        assert_eq!(views.of(0, &first), None);
        let large = data(&format!("\"{}\"", "x".repeat(Views::MAX_BYTES / 4)));
        let maps: Vec<_> = (0..6).map(|_| Values::new()).collect();
        for map in &maps {
            views.keep(1, map, large.clone());
        }
        assert_eq!(maps.iter().filter(|map| views.of(1, map).is_some()).count(), 3);
        let kept = views.kept();
        assert_eq!(kept.bytes, kept.views.values().map(View::size).sum::<usize>());
        assert_eq!(kept.order.len(), kept.views.len());
    }
}
