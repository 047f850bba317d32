// How the sanitizers behave in this project's tests, also when a test is run by hand. The sanitizers' runtimes look
// these functions up by name; without sanitizers nobody calls them.

extern "C" {

// Without detect_stack_use_after_return: gcc 12 then misaligns locals that ask for a cache line of their own (gcc bug
// 110027), and the undefined behaviour sanitizer rightly complains.
const char* __asan_default_options() { return "detect_stack_use_after_return=0:strict_string_checks=1"; }

const char* __ubsan_default_options() { return "print_stacktrace=1"; }

const char* __tsan_default_options() { return "halt_on_error=1:second_deadlock_stack=1"; }

// A thread that waits for an absl::Mutex the first time allocates its identity with mmap while the mutex tells tsan to
// ignore what it does. The mmap is recorded as a write all the same, and races with the thread that wakes this one.
// So is the mmap that replaces a part of a window, of which whoever touches the window is told by the kernel alone.
const char* __tsan_default_suppressions() { return "race:synchronization_internal::Waiter::Post\nrace:MapOver\n"; }

}  // extern "C"
