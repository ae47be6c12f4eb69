//! systemd's units: a unit's cgroup bears its name, below slices alone (`systemd.slice(5)`).

/// The unit whose cgroup this is. What users' managers run is below a service, and is no unit of the system's.
#[must_use]
pub fn name_of(path: &str) -> Option<&str> {
    let (above, name) = path.rsplit_once('/')?;
    let kind = |part: &str| part.rsplit_once('.').map(|(_, kind)| kind.to_owned());
    let is_unit =
        kind(name).is_some_and(|k| ["service", "scope", "slice", "socket", "mount", "swap"].contains(&k.as_str()));
    let in_slices = above.split('/').skip(1).all(|part| kind(part).as_deref() == Some("slice"));
    (is_unit && in_slices).then_some(name)
}

/// Whether a name fits a pattern; `*` is any run of characters, `?` any one.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and how far the name had got there.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(c), _) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            (_, Some((at, from))) => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_below_slices() {
        for (path, name) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-claw.slice/claw@1.service", Some("claw@1.service")),
            ("/agents.slice", Some("agents.slice")),
            ("/init.scope", Some("init.scope")),
            ("/user.slice/user-0.slice/user@0.service/app.slice/claw@1.service", None),
            ("/system.slice/docker.service/claw.service", None),
            ("/agents/claw.service", None),
            ("/system.slice/nginx.service/worker", None),
        ] {
            assert_eq!(name_of(path), name, "{path}");
        }
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, fits) in [
            ("claw@*.service", "claw@1.service", true),
            ("claw@*.service", "claw@.service", true),
            ("claw@?.service", "claw@.service", false),
            ("claw@?.service", "claw@12.service", false),
            ("*", "anything.scope", true),
            ("*.service", "a.service.scope", false),
            ("*a*b*.scope", "xxayyabzz.scope", true),
            ("claw.service", "claw.service", true),
            ("claw.service", "claw.services", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
