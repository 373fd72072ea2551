//! Names of local users, for people who read audit logs. Access never depends on them: only uids count.
//!
//! # Why
//! `getpwuid` needs a C call and can block on a directory server for as long as that likes; `/etc/passwd` is a local file
//! and good enough for a name in brackets.

/// The name of a user, if the system's file knows it.
pub(crate) fn name(uid: u32) -> Option<String> {
    find(&std::fs::read_to_string("/etc/passwd").ok()?, uid)
}

/// `name:password:uid:…`, one user on each line (passwd(5)).
fn find(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let _password = fields.next()?;
        let is_it = fields.next()?.parse() == Ok(uid);
        let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        (is_it && is_plain).then(|| name.chars().take(64).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number_and_odd_lines_are_skipped() {
        let passwd = "root:x:0:0:::\n# note\nbad\nalice:x:1000:1000:::\n";
        assert_eq!(find(passwd, 1000).as_deref(), Some("alice"));
        assert_eq!(find(passwd, 7), None);
    }
}
