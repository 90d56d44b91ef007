//! Who is shown in each item, and the items sorted by it.

use std::ops::Range;

use crate::error::Error;

/// The identity of each item and, optionally, its group: the camera in re-identification, the
/// session or the recording in speaker recognition.
///
/// With groups, gallery items that have both the identity and the group of a query are excluded from
/// its search. A slice, array or vector of identities converts into `Labels` without groups.
///
/// ```
/// use margin_softmax_evaluation::Labels;
///
/// let (identities, cameras) = ([1, 1, 2], [0, 1, 0]);
/// assert_eq!(Labels::from(&identities), Labels::new(&identities));
/// assert_ne!(Labels::from(&identities), Labels::new(&identities).with_groups(&cameras));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labels<'a> {
    identities: &'a [usize],
    groups: Option<&'a [usize]>,
}

impl<'a> Labels<'a> {
    /// Identities without groups.
    pub fn new(identities: &'a [usize]) -> Self {
        Labels { identities, groups: None }
    }

    /// Sets the group of each item. Its length is checked where the labels are used.
    pub fn with_groups(self, groups: &'a [usize]) -> Self {
        Labels { groups: Some(groups), ..self }
    }

    pub(crate) fn identities(&self) -> &'a [usize] {
        self.identities
    }

    pub(crate) fn has_groups(&self) -> bool {
        self.groups.is_some()
    }

    /// The group of a row; 0 without groups.
    pub(crate) fn group(&self, row: usize) -> usize {
        self.groups.map_or(0, |groups| groups[row])
    }

    /// Refuses labels of another number of items. The names are those of the identities and of the
    /// groups.
    pub(crate) fn check(
        &self,
        [identities, groups]: [&'static str; 2],
        rows: usize,
    ) -> Result<(), Error> {
        Error::check_len(identities, rows, self.identities.len())?;
        self.groups.map_or(Ok(()), |given| Error::check_len(groups, rows, given.len()))
    }

    /// The items by identity, then by group; the order of the rows decides last.
    pub(crate) fn sorted(&self) -> Sorted {
        let mut order: Vec<usize> = (0..self.identities.len()).collect();
        order.sort_by_key(|&row| (self.identities[row], self.group(row)));
        let (mut names, mut starts) = (Vec::new(), Vec::new());
        let mut identities = Vec::with_capacity(order.len());
        for (place, &row) in order.iter().enumerate() {
            if names.last() != Some(&self.identities[row]) {
                names.push(self.identities[row]);
                starts.push(place);
            }
            identities.push(names.len() - 1);
        }
        starts.push(order.len());
        let groups = order.iter().map(|&row| self.group(row)).collect();
        Sorted { order, names, starts, identities, groups }
    }
}

impl<'a> From<&'a [usize]> for Labels<'a> {
    fn from(identities: &'a [usize]) -> Self {
        Labels::new(identities)
    }
}

impl<'a, const N: usize> From<&'a [usize; N]> for Labels<'a> {
    fn from(identities: &'a [usize; N]) -> Self {
        Labels::new(identities)
    }
}

impl<'a> From<&'a Vec<usize>> for Labels<'a> {
    fn from(identities: &'a Vec<usize>) -> Self {
        Labels::new(identities)
    }
}

/// Items sorted by identity, then by group: each identity, and each group of it, is a range of
/// places.
pub(crate) struct Sorted {
    /// The row that is at each place.
    pub order: Vec<usize>,
    /// The distinct identities, ascending.
    pub names: Vec<usize>,
    /// The first place of each identity, and the number of places.
    pub starts: Vec<usize>,
    /// The number of each place's identity among the distinct ones.
    pub identities: Vec<usize>,
    /// The group of each place.
    groups: Vec<usize>,
}

impl Sorted {
    /// The places of an identity; none if it is absent.
    pub fn identity(&self, identity: usize) -> Range<usize> {
        let number = self.names.binary_search(&identity);
        number.map_or(0..0, |number| self.starts[number]..self.starts[number + 1])
    }

    /// The places of an identity that are of this group.
    pub fn group(&self, identity: usize, group: usize) -> Range<usize> {
        let places = self.identity(identity);
        let groups = &self.groups[places.clone()];
        let below = groups.partition_point(|&other| other < group);
        let through = groups.partition_point(|&other| other <= group);
        places.start + below..places.start + through
    }
}
