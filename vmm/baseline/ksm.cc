#include "vmm/baseline/ksm.h"

#include <dirent.h>

#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

// Threads of the kernel have no command line: a program may have called itself ksmd.
bool IsKsmd(const std::string& process) {
  const absl::StatusOr<std::string> name = ReadSetting(process + "/comm");
  const absl::StatusOr<std::string> command_line = ReadSetting(process + "/cmdline");
  return name.ok() && *name == "ksmd" && command_line.ok() && command_line->empty();
}

}  // namespace

absl::StatusOr<KsmCounters> ReadKsmCounters(const std::string& root) {
  const std::string directory = absl::StrCat(root, kKsmDirectory);
  if (const absl::Status status = ReadSetting(directory + "/pages_sharing").status(); !status.ok()) return status;
  return KsmCounters{.sharing = PageCount(NumberIn(directory + "/pages_sharing")),
                     .zero = PageCount(NumberIn(directory + "/ksm_zero_pages")),
                     .shared = PageCount(NumberIn(directory + "/pages_shared")),
                     .unshared = PageCount(NumberIn(directory + "/pages_unshared")),
                     .scanned = NumberIn(directory + "/pages_scanned"),
                     .skipped = NumberIn(directory + "/pages_skipped"),
                     .passes = NumberIn(directory + "/full_scans")};
}

absl::StatusOr<std::string> FindKsmdSchedstat(const std::string& root) {
  const std::string processes = absl::StrCat(root, "/proc");
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(processes.c_str()), closedir);
  if (directory == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("opendir ", processes));
  while (const dirent* entry = readdir(directory.get())) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(entry->d_name[0]))) continue;
    const std::string process = absl::StrCat(processes, "/", entry->d_name);
    if (IsKsmd(process)) return process + "/schedstat";
  }
  return absl::NotFoundError("the kernel's thread ksmd is not among the processes that can be seen from here");
}

absl::StatusOr<absl::Duration> ReadRunTime(const std::string& schedstat) {
  const absl::StatusOr<std::string> text = ReadSetting(schedstat);
  if (!text.ok()) return text.status();
  return ParseRunTime(*text);
}

absl::StatusOr<absl::Duration> ParseRunTime(absl::string_view schedstat) {
  const std::vector<absl::string_view> fields = absl::StrSplit(schedstat, ' ');
  int64_t nanoseconds = 0;
  if (fields.size() == 3 && absl::SimpleAtoi(fields[0], &nanoseconds) && nanoseconds >= 0) {
    return absl::Nanoseconds(nanoseconds);
  }
  return absl::InvalidArgumentError(absl::StrCat("not a thread's schedstat: \"", schedstat, "\""));
}

}  // namespace quire
