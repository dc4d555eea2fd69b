//! NVRTC, NVIDIA's compiler as a library, found at run time.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

const LIBRARY: &str = "libnvrtc.so.13";

type Program = *mut c_void;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type GetBytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The library, and the release it is of.
pub(crate) struct Nvrtc {
    library: Library,
    version: (c_int, c_int),
}

impl Nvrtc {
    /// Finds the library, which a process may have loaded before from wherever it is. The error says why there is none.
    pub fn find() -> Result<Self, String> {
        // SAFETY: the library's initializers do nothing that a process need prepare for.
        let library = unsafe { Library::open(Some(LIBRARY), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|error| format!("{LIBRARY} was not found ({error})"))?;
        let mut nvrtc = Self { library, version: (0, 0) };
        let mut version = (0, 0);
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        // SAFETY: the function has this type, and writes two numbers.
        nvrtc.checked(unsafe { nvrtc.symbol::<Version>(c"nvrtcVersion")?(&mut version.0, &mut version.1) })?;
        nvrtc.version = version;
        Ok(nvrtc)
    }

    /// The release: major and minor.
    pub fn version(&self) -> (c_int, c_int) {
        self.version
    }

    /// The architectures it compiles for, as 80 for `sm_80`.
    pub fn architectures(&self) -> Vec<c_int> {
        type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
        let ask = |symbol: &'static CStr, answer: *mut c_int| {
            // SAFETY: both functions asked have this type; there is room at `answer` for what they write.
            self.checked(unsafe { self.symbol::<Count>(symbol)?(answer) })
        };
        let mut count = 0;
        if ask(c"nvrtcGetNumSupportedArchs", &mut count).is_err() {
            return Vec::new();
        }
        let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
        match ask(c"nvrtcGetSupportedArchs", known.as_mut_ptr()) {
            Ok(()) => known,
            Err(_) => Vec::new(),
        }
    }

    /// Compiles a source whose includes are among `headers`, by name. A cubin, or PTX where the options ask for a virtual
    /// architecture. The error is what the compiler says.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(String, String)],
        options: &[&str],
    ) -> Result<Vec<u8>, String> {
        let program = self.program(name, source, headers)?;
        let options = c_strings(options.iter().copied())?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        // SAFETY: the function has this type; the options are as many as said, and outlive the call.
        let compiled = unsafe {
            self.symbol::<Compile>(c"nvrtcCompileProgram")?(program.0, options.len() as c_int, options.as_ptr())
        };
        if let Err(error) = self.checked(compiled) {
            let log = self.output(&program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog").unwrap_or_default();
            return Err(format!("{error}\n{}", String::from_utf8_lossy(&log).trim_end_matches('\0')));
        }
        match self.output(&program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN") {
            Ok(cubin) if !cubin.is_empty() => Ok(cubin),
            _ => self.output(&program, c"nvrtcGetPTXSize", c"nvrtcGetPTX"),
        }
    }

    fn program(&self, name: &str, source: &str, headers: &[(String, String)]) -> Result<OwnedProgram<'_>, String> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let texts = c_strings([source, name].into_iter())?;
        let contents = c_strings(headers.iter().map(|(_, text)| text.as_str()))?;
        let names = c_strings(headers.iter().map(|(name, _)| name.as_str()))?;
        let contents: Vec<*const c_char> = contents.iter().map(|text| text.as_ptr()).collect();
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let create = self.symbol::<Create>(c"nvrtcCreateProgram")?;
        let mut program = ptr::null_mut();
        // SAFETY: the function has this type. It copies the texts; of both lists there are as many as said.
        self.checked(unsafe {
            create(
                &mut program,
                texts[0].as_ptr(),
                texts[1].as_ptr(),
                names.len() as c_int,
                contents.as_ptr(),
                names.as_ptr(),
            )
        })?;
        Ok(OwnedProgram(program, self))
    }

    fn output(&self, program: &OwnedProgram<'_>, size: &CStr, get: &CStr) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: functions that tell a size have this type, and write it.
        self.checked(unsafe { self.symbol::<GetSize>(size)?(program.0, &mut bytes) })?;
        let mut output = vec![0u8; bytes];
        // SAFETY: functions that give bytes have this type, and write as many as they told.
        self.checked(unsafe { self.symbol::<GetBytes>(get)?(program.0, output.as_mut_ptr().cast()) })?;
        Ok(output)
    }

    fn symbol<T>(&self, name: &CStr) -> Result<Symbol<T>, String> {
        // SAFETY: the type is that of NVRTC's interface, as each use of it says; it is used while the library is loaded.
        unsafe { self.library.get(name.to_bytes_with_nul()) }.map_err(|error| error.to_string())
    }

    fn checked(&self, result: c_int) -> Result<(), String> {
        type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
        if result == 0 {
            return Ok(());
        }
        let name = self.symbol::<ErrorString>(c"nvrtcGetErrorString")?;
        // SAFETY: the function has this type, and answers with a static string.
        Err(unsafe { CStr::from_ptr(name(result)) }.to_string_lossy().into_owned())
    }
}

struct OwnedProgram<'a>(Program, &'a Nvrtc);

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        if let Ok(destroy) = self.1.symbol::<Destroy>(c"nvrtcDestroyProgram") {
            // SAFETY: the function has this type; the program is this value's own.
            unsafe { destroy(&mut self.0) };
        }
    }
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, String> {
    texts.map(|text| CString::new(text).map_err(|error| error.to_string())).collect()
}
