// Settings of the host that a benchmark changes, and that are put back when it ends.
#ifndef QUIRE_VMM_BENCH_HOST_SETTINGS_H_
#define QUIRE_VMM_BENCH_HOST_SETTINGS_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// A file of sysfs or procfs, without the line break at the end. Errors: what open and read report, with the path.
absl::StatusOr<std::string> ReadSetting(const std::string& path);
// Errors: what open and write report, with path and value.
absl::Status WriteSetting(const std::string& path, absl::string_view value);

// The one in brackets of "always [madvise] never"; the text itself if it has no brackets.
std::string ChosenOf(absl::string_view text);

// Undoes what was done, last thing first, when it goes. Belongs to one thread.
class HostSettings {
 public:
  HostSettings() = default;
  HostSettings(const HostSettings&) = delete;
  HostSettings& operator=(const HostSettings&) = delete;
  ~HostSettings() { PutBack(); }

  // Writes `value` to the file, and its old value when it is time. Errors: those of ReadSetting and WriteSetting.
  absl::Status Change(const std::string& path, absl::string_view value);
  // Calls `undo` when it is time.
  void AtEnd(std::function<void()> undo) { undo_.push_back(std::move(undo)); }
  void PutBack();

 private:
  std::vector<std::function<void()>> undo_;
};

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_HOST_SETTINGS_H_
