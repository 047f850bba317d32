#include "vmm/libvirt/qemu/qemu_process.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace quire {
namespace {

bool IsDomain(const std::string& command_line, const std::string& uuid) {
  const std::vector<absl::string_view> words = absl::StrSplit(command_line, '\0');
  const auto told = std::find(words.begin(), words.end(), "-uuid");
  return words.end() - told > 1 && told[1] == uuid;
}

}  // namespace

absl::StatusOr<pid_t> FindQemu(const std::string& uuid, const std::string& proc) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(proc, error)) {
    pid_t process = 0;
    if (!absl::SimpleAtoi(entry.path().filename().native(), &process)) continue;
    std::ostringstream command_line;
    command_line << std::ifstream(entry.path() / "cmdline", std::ios::binary).rdbuf();
    if (IsDomain(command_line.str(), uuid)) return process;
  }
  return absl::NotFoundError(
      absl::StrCat("no process here runs the domain ", uuid, ": libvirt has to be this host's own"));
}

}  // namespace quire
