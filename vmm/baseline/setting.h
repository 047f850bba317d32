// Files of sysfs, procfs and cgroups, of which each is a setting or a figure of the host.
#ifndef QUIRE_VMM_BASELINE_SETTING_H_
#define QUIRE_VMM_BASELINE_SETTING_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

// A file's text, without the line break at the end. Errors: what open and read report, with the path.
absl::StatusOr<std::string> ReadSetting(const std::string& path);
// As a shell's > does it. Errors: what open and write report, with path and value.
absl::Status WriteSetting(const std::string& path, absl::string_view value);

// The one in brackets of "always [madvise] never"; the text itself if it has no brackets.
std::string ChosenOf(absl::string_view text);

// The number that a file holds; 0 if it cannot be read, or holds none.
uint64_t NumberIn(const std::string& path);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_SETTING_H_
