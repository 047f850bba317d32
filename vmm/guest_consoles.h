// What guests write to their consoles, for the user: whole lines, each with its guest's name.
#ifndef QUIRE_VMM_GUEST_CONSOLES_H_
#define QUIRE_VMM_GUEST_CONSOLES_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "vmm/progress.h"

namespace quire {

// Thread safe.
class GuestConsoles {
 public:
  // A guest's line is shown when it ends, or at this length: a guest cannot make the host buffer without bound.
  static constexpr size_t kLongestLine = 4096;
  // Lines that wait to be shown, of all guests; the rest is dropped, and said to be.
  static constexpr size_t kMostLines = 10000;

  // The console of one guest; callable from any thread while this lives.
  std::function<void(absl::string_view)> For(const std::string& guest);

  // Hands over what has been written since the last call. At the end of the run, unfinished lines too.
  void Flush(ProgressSink& sink, bool end = false);

 private:
  void Write(const std::string& guest, absl::string_view bytes);
  void EndLine(const std::string& guest, std::string& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  absl::Mutex lock_;
  std::map<std::string, std::string> unfinished_ ABSL_GUARDED_BY(lock_);
  std::vector<std::string> lines_ ABSL_GUARDED_BY(lock_);
  size_t dropped_ ABSL_GUARDED_BY(lock_) = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_GUEST_CONSOLES_H_
