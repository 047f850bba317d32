// A thread that sleeps until it is woken, works, and sleeps again.
#ifndef QUIRE_BASE_DAEMON_H_
#define QUIRE_BASE_DAEMON_H_

#include <atomic>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace quire {

// Thread safe, but Start and Stop belong to one thread. Its lock is a leaf, not held during work.
class Daemon {
 public:
  // `name` is the thread's, and lives as long as this. `work` is what it does when it was woken.
  Daemon(const char* name, std::function<void()> work) : name_(name), work_(std::move(work)) {}
  ~Daemon() { Stop(); }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // The thread runs between the two; it may be started again. Stop waits for the work in hand.
  void Start();
  void Stop();
  // Has it work once more, if it runs or is started later. Cheap when that has been asked for already.
  void Wake();

  // For long work: whether to leave the rest.
  bool stopping() const;
  // For work: sleeps for so long, or until it is to stop.
  void Rest(absl::Duration time);

  // CPU time of the thread, while it runs.
  absl::Duration cpu_time();

 private:
  void Run();

  const char* const name_;
  const std::function<void()> work_;
  mutable absl::Mutex lock_;
  bool stopping_ ABSL_GUARDED_BY(lock_) = false;
  std::atomic<bool> wake_ = false;  // set under lock_, for who awaits it
  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_BASE_DAEMON_H_
