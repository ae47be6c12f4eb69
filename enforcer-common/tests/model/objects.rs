//! The kernel's side of a tree: inodes, the names that lead to them, and the way up.

use std::iter;

use enforcer_common::{
    decide::{Ancestry, Climb, Step as Visitor},
    ids::ObjectId,
    rules::MAX_DEPTH,
};

use crate::world::{Step, Tree};

/// One name in a directory.
#[derive(Clone, Debug)]
struct Dentry {
    /// Index of the directory's dentry; its own for the root.
    parent: usize,
    name: String,
    inode: ObjectId,
}

/// A filesystem.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Vec<Dentry>);

impl Disk {
    /// The objects behind the names.
    pub(crate) fn new(tree: &Tree) -> Self {
        let inode = |ino| ObjectId { ino, dev: 0x80_0001, generation: 1 };
        let mut disk = Self(vec![Dentry { parent: 0, name: "/".into(), inode: inode(2) }]);
        for (ino, path) in (3..).zip(&tree.names[1..]) {
            let (dir, name) = path.rsplit_once('/').expect("an absolute path");
            let parent = disk.find(dir).expect("parents come first");
            let twin = tree.twins.iter().find(|(_, link)| link == path).and_then(|(file, _)| disk.find(file));
            let inode = twin.map_or(inode(ino), |twin| disk.0[twin].inode);
            disk.0.push(Dentry { parent, name: name.into(), inode });
        }
        disk
    }

    fn child(&self, dir: usize, name: &str) -> Option<usize> {
        (1..self.0.len()).find(|d| self.0[*d].parent == dir && self.0[*d].name == name)
    }

    /// The dentry that a path leads to.
    fn find(&self, path: &str) -> Option<usize> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(0, |dir, name| self.child(dir, name))
    }

    /// What a path leads to.
    pub(crate) fn object(&self, path: &str) -> Option<ObjectId> {
        self.find(path).map(|d| self.0[d].inode)
    }

    /// Something befalls the tree.
    pub(crate) fn befall(&mut self, step: &Step) {
        let must = |found: Option<usize>| found.expect("the step was made for this tree");
        match step {
            Step::Rename(from, to) => {
                let (dir, name) = to.rsplit_once('/').expect("an absolute path");
                let (dentry, parent) = (must(self.find(from)), must(self.find(dir)));
                self.0[dentry].parent = parent;
                self.0[dentry].name = name.into();
            }
            Step::Exchange(a, b) => {
                let (a, b) = (must(self.find(a)), must(self.find(b)));
                let (first, second) = (self.0[a].clone(), self.0[b].clone());
                (self.0[a].parent, self.0[a].name) = (second.parent, second.name);
                (self.0[b].parent, self.0[b].name) = (first.parent, first.name);
            }
            Step::Replace(name) => {
                let dentry = must(self.find(name));
                // The worst case: the inode number is used again at once, unless another name keeps it in use.
                let old = self.0[dentry].inode;
                let kept = self.0.iter().filter(|d| d.inode == old).count() > 1;
                let fresh = self.0.iter().map(|d| d.inode.ino).max().unwrap_or(0) + 1;
                let ino = if kept { fresh } else { old.ino };
                self.0[dentry].inode = ObjectId { ino, generation: old.generation + 1, ..old };
            }
        }
    }

    /// A file gets one more name.
    pub(crate) fn link(&mut self, file: &str, name: &str) {
        let (dir, name) = name.rsplit_once('/').expect("an absolute path");
        let parent = self.find(dir).expect("the directory is there");
        let inode = self.object(file).expect("the file is there");
        self.0.push(Dentry { parent, name: name.into(), inode });
    }

    fn up(&self, from: usize) -> impl Iterator<Item = ObjectId> {
        let parent = |dentry: &usize| (*dentry != 0).then(|| self.0[*dentry].parent);
        iter::successors(Some(from), parent).map(|dentry| self.0[dentry].inode)
    }

    /// The way up from a path; `adrift` names of it, counted from the root, no longer hang together with the rest.
    pub(crate) fn way(&self, path: &str, adrift: usize) -> Way {
        let mut objects: Vec<ObjectId> = self.up(self.find(path).expect("the path is there")).collect();
        objects.truncate(objects.len() - adrift);
        Way { objects, end: if adrift == 0 { Climb::Root } else { Climb::Adrift } }
    }

    /// The way up from a name that is about to be made: it has no inode yet.
    pub(crate) fn way_to_be(&self, path: &str) -> Way {
        let (dir, _) = path.rsplit_once('/').expect("an absolute path");
        let dir = self.find(dir).expect("the directory is there");
        Way { objects: iter::once(ObjectId::default()).chain(self.up(dir)).collect(), end: Climb::Root }
    }
}

/// A way up, as the kernel programs walk it.
pub(crate) struct Way {
    objects: Vec<ObjectId>,
    end: Climb,
}

impl Ancestry for Way {
    fn climb<S: Visitor>(&mut self, step: &mut S) -> Climb {
        for (visited, object) in (0..).zip(&self.objects) {
            if visited == MAX_DEPTH {
                return Climb::TooDeep;
            }
            if step.visit(object) {
                return Climb::Enough;
            }
        }
        self.end
    }
}
