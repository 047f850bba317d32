#include "base/thread.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>

namespace quire {

void SetThreadName(const char* name) { prctl(PR_SET_NAME, name); }

absl::Duration ThreadCpuTime() {
  timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return absl::DurationFromTimespec(used);
}

clockid_t ThreadCpuClock() {
  clockid_t clock = CLOCK_THREAD_CPUTIME_ID;
  pthread_getcpuclockid(pthread_self(), &clock);
  return clock;
}

absl::Duration TimeOf(clockid_t clock) {
  timespec used = {};
  clock_gettime(clock, &used);
  return absl::DurationFromTimespec(used);
}

absl::Duration CpuTimeOf(std::thread& thread) {
  clockid_t clock;
  timespec used;
  if (pthread_getcpuclockid(thread.native_handle(), &clock) != 0 || clock_gettime(clock, &used) != 0) {
    return absl::ZeroDuration();  // it has ended
  }
  return absl::DurationFromTimespec(used);
}

absl::Duration ProcessCpuTime() {
  timespec used;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return absl::DurationFromTimespec(used);
}

}  // namespace quire
