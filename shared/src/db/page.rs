//! Pages of a list: by the last row seen, never by counting from the start unless a page number was asked for.

use uuid::Uuid;

/// Which rows of a list. Ids are UUIDv7, so their order is that of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The last row seen; the list goes on behind it.
    pub after: Option<Uuid>,
    /// How many rows to skip, for page numbers.
    pub offset: i64,
    /// How many rows at most.
    pub limit: i64,
}

impl Page {
    /// The first rows.
    pub const fn first(limit: i64) -> Self {
        Self { after: None, offset: 0, limit }
    }

    /// The rows behind one.
    pub const fn after(last: Uuid, limit: i64) -> Self {
        Self { after: Some(last), offset: 0, limit }
    }

    /// One row more than wanted says whether there are more.
    pub(crate) const fn fetch(&self) -> i64 {
        self.limit.saturating_add(1)
    }
}

/// The rows of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows<T> {
    /// In the order of the list.
    pub rows: Vec<T>,
    /// Where the next page goes on; None on the last one.
    pub next: Option<Uuid>,
}

impl<T> Rows<T> {
    /// Cuts what was fetched with [`Page::fetch`] to the page.
    pub(crate) fn cut(mut rows: Vec<T>, page: &Page, id_of: impl Fn(&T) -> Uuid) -> Self {
        let limit = usize::try_from(page.limit).unwrap_or_default();
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().map(id_of).filter(|_| more);
        Self { rows, next }
    }
}

/// A pattern for `ilike` that finds the text anywhere, its own wildcards taken literally.
pub(crate) fn containing(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_knows_where_the_next_begins() {
        let ids: Vec<Uuid> = (1..=4).map(Uuid::from_u128).collect();
        let page = Page::first(3);
        assert_eq!(page.fetch(), 4);
        assert_eq!(Rows::cut(ids.clone(), &page, |id| *id).next, Some(ids[2]));
        assert_eq!(Rows::cut(ids[..3].to_vec(), &page, |id| *id).next, None);
        assert!(Rows::<Uuid>::cut(Vec::new(), &page, |id| *id).rows.is_empty());
    }

    #[test]
    fn wildcards_are_taken_literally() {
        assert_eq!(containing("50%_\\"), "%50\\%\\_\\\\%");
    }
}
