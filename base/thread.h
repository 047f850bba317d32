// What the manager wants to know of a thread: its name in the host's tools and the CPU time it has used.
#ifndef QUIRE_BASE_THREAD_H_
#define QUIRE_BASE_THREAD_H_

#include <time.h>

#include <thread>

#include "absl/time/time.h"

namespace quire {

// Names the calling thread, as ps and perf show it. At most 15 characters; the rest is cut off.
void SetThreadName(const char* name);

// CPU time used by the calling thread since it started (CLOCK_THREAD_CPUTIME_ID).
absl::Duration ThreadCpuTime();
// The clock of that, for other threads to read while the calling one runs, and how much it says.
clockid_t ThreadCpuClock();
absl::Duration TimeOf(clockid_t clock);
// The same of another thread, which has not been joined. Costs that thread nothing.
absl::Duration CpuTimeOf(std::thread& thread);
// CPU time of all threads of this process so far, those that have ended too.
absl::Duration ProcessCpuTime();

}  // namespace quire

#endif  // QUIRE_BASE_THREAD_H_
