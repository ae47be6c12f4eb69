//! What is Enforcer's own: every skill gets rules for it that no other rule lifts.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use enforcer_common::{
    ids::{ObjectId, SkillId},
    rules::{ObjectKey, Own, SkillConf, skill_flag},
};

use super::{
    Compiler, Ids, NoObject, World,
    ruleset::{RuleText, Ruleset, SkillText},
};
use crate::manifest::SkillName;

/// An object of Enforcer's own, or a directory on the way to one.
pub(super) struct OwnObject {
    object: ObjectId,
    way: bool,
    /// How events name the rule.
    text: String,
}

/// Finds out what is Enforcer's own on this host.
pub(super) fn objects(world: &mut dyn World) -> Result<Vec<OwnObject>, NoObject> {
    // Before what has a name, by which events had better call it.
    let held = world.held().into_iter().map(|(name, object)| OwnObject { object, way: false, text: text(&name) });
    let mut found: Vec<OwnObject> = held.collect();
    for path in world.own() {
        let text = text(&path);
        let own = world.objects(&path, false)?;
        if own.is_empty() {
            continue;
        }
        found.extend(own.into_iter().map(|(object, _)| OwnObject { object, way: false, text: text.clone() }));
        // The root of a filesystem cannot be moved, and the root of all is above everything.
        for step in path.ancestors().skip(1).filter(|step| *step != Path::new("/")) {
            if let Some(object) = world.object(step)? {
                found.push(OwnObject { object, way: true, text: text.clone() });
            }
        }
    }
    // Of what is both, the stricter comes last and stays.
    found.sort_by_key(|own| !own.way);
    Ok(found)
}

fn text(path: &Path) -> String {
    format!("self: {}", path.display())
}

/// Adds files to what every skill of a compiled policy may not change.
pub fn hold(ruleset: &mut Ruleset, ids: &mut Ids, held: &[(PathBuf, ObjectId)]) {
    for (skill, SkillText { name, .. }) in ruleset.names.clone() {
        for (path, object) in held {
            let text = RuleText { skill: name.clone(), text: text(path).into() };
            let rule = ids.rule(text.clone());
            ruleset.rules.insert(rule, text);
            ruleset.objects.entry(ObjectKey::new(skill, *object)).or_default().own = Own::all(rule);
        }
        if let Some(conf) = ruleset.skills.get_mut(&skill).filter(|_| !held.is_empty()) {
            conf.flags |= skill_flag::GUARDS;
        }
    }
}

impl Compiler<'_> {
    /// The rules of one skill for what is Enforcer's own.
    pub(super) fn guard(&mut self, name: &SkillName, skill: SkillId, conf: &mut SkillConf) {
        for own in Rc::clone(&self.own).iter() {
            let rule = self.rule(name, own.text.clone());
            let kind = if own.way { Own::way(rule) } else { Own::all(rule) };
            self.ruleset.objects.entry(ObjectKey::new(skill, own.object)).or_default().own = kind;
            conf.flags |= skill_flag::GUARDS;
        }
    }
}
