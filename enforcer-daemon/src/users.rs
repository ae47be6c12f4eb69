//! `/etc/passwd` and `/etc/group`, read as they stand: the binary is static, so the C library's name services are not at hand.

use std::{fs, io, path::PathBuf};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The home directory.
    pub home: PathBuf,
}

/// Finds a user by name or by number.
///
/// # Errors
/// When `/etc/passwd` cannot be read.
pub fn by_name(name: &str) -> io::Result<Option<User>> {
    Ok(find(&fs::read_to_string("/etc/passwd")?, name))
}

/// The number of a group, by its name; a number is one, whether or not it has a name.
///
/// # Errors
/// When `/etc/group` cannot be read.
pub fn group(name: &str) -> io::Result<Option<u32>> {
    match name.parse() {
        Ok(gid) => Ok(Some(gid)),
        Err(_) => Ok(find_group(&fs::read_to_string("/etc/group")?, name)),
    }
}

/// `NAME:PASSWORD:GID:MEMBERS`
fn find_group(groups: &str, wanted: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? == wanted { fields.nth(1)?.parse().ok() } else { None }
    })
}

fn find(passwd: &str, wanted: &str) -> Option<User> {
    passwd.lines().filter_map(parse).find(|u| u.name == wanted || u.uid.to_string() == wanted)
}

/// `NAME:PASSWORD:UID:GID:GECOS:HOME:SHELL`
fn parse(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?.into();
    Some(User { name, uid, gid, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nbroken\nadm:x:4:syslog,me\n";
        assert_eq!([find_group(groups, "adm"), find_group(groups, "me")], [Some(4), None]);
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nagent:x:1000:1001::/home/agent:/bin/sh\n";
        let agent = find(passwd, "agent").expect("there");
        assert_eq!((agent.uid, agent.gid, agent.home.to_str()), (1000, 1001, Some("/home/agent")));
        assert_eq!(find(passwd, "1000"), Some(agent));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
