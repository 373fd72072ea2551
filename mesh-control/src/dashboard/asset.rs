//! The page's files, within the program.

/// One file.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Asset {
    /// Below the page's place; empty: the page itself.
    pub(crate) path: &'static str,
    /// Its media type.
    pub(crate) content_type: &'static str,
    /// What is in it.
    pub(crate) text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// All of them.
static ASSETS: [Asset; 8] = [
    Asset { path: "", content_type: "text/html; charset=utf-8", text: include_str!("files/index.html") },
    Asset { path: "icon.svg", content_type: "image/svg+xml", text: include_str!("files/icon.svg") },
    Asset { path: "page.css", content_type: "text/css; charset=utf-8", text: include_str!("files/page.css") },
    Asset { path: "app.js", content_type: SCRIPT, text: include_str!("files/app.js") },
    Asset { path: "dom.js", content_type: SCRIPT, text: include_str!("files/dom.js") },
    Asset { path: "graph.js", content_type: SCRIPT, text: include_str!("files/graph.js") },
    Asset { path: "layout.js", content_type: SCRIPT, text: include_str!("files/layout.js") },
    Asset { path: "views.js", content_type: SCRIPT, text: include_str!("files/views.js") },
];

/// The file of a path.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all files together, uncompressed.
    const BYTES_MAX: usize = 100 * 1024;

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(bytes < BYTES_MAX, "{bytes} bytes");
        for Asset { path, text, .. } in &ASSETS {
            let foreign = text.match_indices("://").filter(|(at, _)| {
                !text[..*at].ends_with("spiffe") && !text[*at..].starts_with("://www.w3.org/2000/svg")
            });
            assert_eq!(foreign.count(), 0, "{path} names another place");
            for way in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=",
                " onclick=",
            ] {
                assert!(!text.contains(way), "{path} has {way}");
            }
        }
    }
}
