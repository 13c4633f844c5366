//! Turns addresses in programs and libraries into functions, files and lines.
//!
//! Debug information is read by `addr2line`: from the module itself or from the separate file
//! that carries its build id. Where there is none, the symbol tables still tell a name.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use addr2line::{Loader, demangle_auto};
use object::read::ReadCache;
use object::{Object, ObjectSymbol, SymbolKind};
use serde::Serialize;

/// Where distributions put debug information, by build id.
const DEBUG_FILES: &str = "/usr/lib/debug";

/// What is known of one address: a function, or a function that was inlined there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Symbol {
    /// The function, demangled.
    pub function: String,
    /// The distance in bytes from the function's start, told where the line is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

/// Reads modules, each once.
pub struct Symbols {
    modules: HashMap<PathBuf, Option<Module>>,
    /// Where separate debug files lie.
    debug: Vec<PathBuf>,
}

impl Symbols {
    /// Nothing is read yet. `debug`: directories with debug files, besides the system's.
    pub fn new(mut debug: Vec<PathBuf>) -> Symbols {
        debug.push(DEBUG_FILES.into());
        Symbols {
            modules: HashMap::new(),
            debug,
        }
    }

    /// What lies at `address`, an address of the file (what `addr2line -e module` takes).
    ///
    /// The innermost of inlined functions comes first; each one is inlined into the next. Nothing
    /// when the module is not there or knows no name.
    pub fn find(&mut self, module: &str, address: u64) -> Vec<Symbol> {
        // Areas without a file have names such as `[vdso]`.
        if !module.starts_with('/') {
            return Vec::new();
        }
        if !self.modules.contains_key(Path::new(module)) {
            let read = Module::read(Path::new(module), &self.debug);
            self.modules.insert(module.into(), read);
        }
        match self.modules.get(Path::new(module)) {
            Some(Some(module)) => module.find(address),
            _ => Vec::new(),
        }
    }
}

/// One program or library.
struct Module {
    lines: Option<Loader>,
    /// Functions by their first address.
    functions: Vec<Function>,
}

struct Function {
    start: u64,
    size: u64,
    name: String,
}

impl Module {
    fn read(path: &Path, debug: &[PathBuf]) -> Option<Module> {
        // What is no file, such as a pipe, could keep us waiting.
        if !path.metadata().ok()?.is_file() {
            return None;
        }
        let cache = ReadCache::new(File::open(path).ok()?);
        let file = object::File::parse(&cache).ok()?;
        let mut functions = functions(&file);
        let id = file.build_id().ok().flatten();
        let separate = id.and_then(|id| debug_file(id, debug));
        let mut lines = None;
        if file.section_by_name(".debug_info").is_some() || separate.is_none() {
            lines = load(path, &file, debug);
        } else if let Some(separate) = separate {
            let cache = ReadCache::new(File::open(&separate).ok()?);
            if let Ok(file) = object::File::parse(&cache) {
                lines = load(&separate, &file, debug);
                functions.extend(self::functions(&file));
            }
        }
        functions.sort_by_key(|function| (function.start, function.size));
        Some(Module { lines, functions })
    }

    fn find(&self, address: u64) -> Vec<Symbol> {
        let mut found = self.frames(address).unwrap_or_default();
        let Some(outermost) = found.last_mut() else {
            return self.function(address).into_iter().collect();
        };
        // Code of an assembler has lines and no functions.
        if outermost.function.is_empty() {
            match self.function(address) {
                Some(symbol) => outermost.function = symbol.function,
                None => outermost.function = "??".into(),
            }
        }
        found
    }

    fn frames(&self, address: u64) -> Option<Vec<Symbol>> {
        let mut frames = self.lines.as_ref()?.find_frames(address).ok()?;
        let mut found = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref();
            let name = name.and_then(|name| Some(name.demangle().ok()?.into_owned()));
            let mut symbol = Symbol {
                function: name.unwrap_or_default(),
                offset: None,
                file: None,
                line: None,
                column: None,
            };
            // Line 0 and column 0 stand for unknown ones.
            if let Some(place) = frame.location {
                symbol.file = place.file.map(str::to_string);
                symbol.line = place.line.filter(|line| *line != 0);
                symbol.column = place.column.filter(|column| *column != 0);
            }
            found.push(symbol);
        }
        Some(found)
    }

    /// By the symbol tables alone.
    fn function(&self, address: u64) -> Option<Symbol> {
        let behind = self.functions.partition_point(|f| f.start <= address);
        // Of several names for one place the last is the longest function.
        let function = self.functions[..behind].last()?;
        let offset = address - function.start;
        // Hand-written code may have no size.
        if function.size != 0 && offset >= function.size {
            return None;
        }
        Some(Symbol {
            function: demangle_auto(function.name.as_str().into(), None).into_owned(),
            offset: Some(offset),
            file: None,
            line: None,
            column: None,
        })
    }
}

fn functions<'data>(file: &impl Object<'data>) -> Vec<Function> {
    file.symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
        .filter_map(|symbol| {
            Some(Function {
                start: symbol.address(),
                size: symbol.size(),
                name: symbol.name().ok()?.to_string(),
            })
        })
        .collect()
}

/// The debug information of the file at `path`, which was opened as `file`.
fn load<'data>(path: &Path, file: &impl Object<'data>, debug: &[PathBuf]) -> Option<Loader> {
    // What several packages share of it may lie in a file of its own.
    let shared = file.gnu_debugaltlink().ok().flatten();
    let shared = shared.and_then(|(_, id)| debug_file(id, debug));
    Loader::new_with_sup(path, shared.as_deref())
        .or_else(|_| Loader::new(path))
        .ok()
}

/// The separate debug file with this build id.
fn debug_file(id: &[u8], debug: &[PathBuf]) -> Option<PathBuf> {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (directory, name) = hex.split_at_checked(2)?;
    let path = format!(".build-id/{directory}/{name}.debug");
    let mut paths = debug.iter().map(|debug| debug.join(&path));
    paths.find(|path| path.is_file())
}
