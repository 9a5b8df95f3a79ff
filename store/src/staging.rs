//! On local disks an object is staged beside its name and then linked; a process that is killed between the two leaves the
//! staged file behind. They are swept at start and at seal. A live writer whose file is swept puts it again.

use std::path::Path;

use crate::location::Location;

/// Removes stale staging files of an output; returns how many.
pub fn sweep(out: &Location) -> std::io::Result<usize> {
    match out.local_folder() {
        Some(folder) if folder.is_dir() => sweep_folder(&folder, true),
        _ => Ok(0),
    }
}

fn sweep_folder(folder: &Path, top: bool) -> std::io::Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if entry.file_type()?.is_dir() {
            // Below the top only our own folder is ours to sweep.
            if !top || name == crate::keys::META {
                swept += sweep_folder(&entry.path(), false)?;
            }
        } else if is_staged(name) && (!top || name.starts_with("part-")) {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => swept += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(swept)
}

fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}
