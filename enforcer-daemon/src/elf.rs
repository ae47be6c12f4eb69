//! What an ELF file says of itself.

use std::{ffi::OsStr, fs::File, os::unix::ffi::OsStrExt as _, path::PathBuf};

use object::{
    Endianness, FileKind, ReadCache, ReadRef,
    elf::{FileHeader32, FileHeader64},
    read::elf::{FileHeader, ProgramHeader as _},
};

/// The dynamic loader that a program asks for (`PT_INTERP`); none when it is no ELF file or asks for none.
#[must_use]
pub(crate) fn interpreter(file: &File) -> Option<PathBuf> {
    let data = ReadCache::new(file);
    match FileKind::parse(&data).ok()? {
        FileKind::Elf32 => of_class::<FileHeader32<Endianness>, _>(&data),
        FileKind::Elf64 => of_class::<FileHeader64<Endianness>, _>(&data),
        _ => None,
    }
}

fn of_class<'a, H: FileHeader<Endian = Endianness>, R: ReadRef<'a>>(data: R) -> Option<PathBuf> {
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let path = header.program_headers(endian, data).ok()?.iter().find_map(|h| h.interpreter(endian, data).ok()?)?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_loader_and_a_text_none() {
        let shell = interpreter(&File::open("/bin/sh").expect("there is a shell")).expect("it is dynamic");
        assert!(shell.is_absolute() && shell.to_string_lossy().contains("ld"), "{shell:?}");
        assert_eq!(interpreter(&File::open("/etc/passwd").expect("there are users")), None);
    }
}
