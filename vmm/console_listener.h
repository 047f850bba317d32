// Listens to a guest's console for what it reports there, while others read on.
#ifndef QUIRE_VMM_CONSOLE_LISTENER_H_
#define QUIRE_VMM_CONSOLE_LISTENER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "vmm/console_report.h"

namespace quire {

// Thread safe.
class ConsoleListener {
 public:
  explicit ConsoleListener(std::function<void(absl::string_view)> next) : next_(std::move(next)) {}

  // What the guest writes; passed on as it is.
  void Write(absl::string_view bytes) ABSL_LOCKS_EXCLUDED(lock_) {
    {
      absl::MutexLock lock(&lock_);
      report_.Add(bytes);
    }
    next_(bytes);
  }

  // What it has reported so far, by key.
  std::map<std::string, std::string> values() const ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    return report_.values();
  }

  // What it says it has done so far.
  uint64_t operations() const ABSL_LOCKS_EXCLUDED(lock_) {
    absl::MutexLock lock(&lock_);
    return report_.operations();
  }

 private:
  const std::function<void(absl::string_view)> next_;
  mutable absl::Mutex lock_;
  ConsoleReport report_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_VMM_CONSOLE_LISTENER_H_
