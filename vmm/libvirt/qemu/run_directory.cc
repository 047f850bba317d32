#include "vmm/libvirt/qemu/run_directory.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace quire {
namespace {

constexpr absl::string_view kPrefix = "quire-qemu.";

// Of this user's, "quire-qemu.PROCESS.XXXXXX", and that process has gone.
bool IsLeftBehind(const std::filesystem::path& path) {
  const std::string file = path.filename();
  absl::string_view name = file;
  struct stat found;
  if (!absl::ConsumePrefix(&name, kPrefix) || lstat(path.c_str(), &found) != 0) return false;
  if (!S_ISDIR(found.st_mode) || found.st_uid != geteuid()) return false;
  const std::vector<absl::string_view> words = absl::StrSplit(name, '.');
  pid_t process = 0;
  return absl::SimpleAtoi(words.front(), &process) && process > 0 && kill(process, 0) != 0 && errno == ESRCH;
}

void RemoveLeftBehind(const std::string& parent) {
  std::error_code error;
  std::vector<std::filesystem::path> left;
  for (const auto& entry : std::filesystem::directory_iterator(parent, error)) {
    if (IsLeftBehind(entry.path())) left.push_back(entry.path());
  }
  for (const std::filesystem::path& path : left) std::filesystem::remove_all(path, error);
}

}  // namespace

RunDirectory::RunDirectory(std::string path) : path_(std::move(path)), process_(getpid()) {}

absl::StatusOr<std::unique_ptr<RunDirectory>> RunDirectory::Create(const std::string& parent) {
  RemoveLeftBehind(parent);
  std::string path = absl::StrCat(parent, "/", kPrefix, getpid(), ".XXXXXX");
  if (mkdtemp(path.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("make a directory in ", parent, " for files of QEMU's guests"));
  }
  auto directory = absl::WrapUnique(new RunDirectory(path));
  if (chmod(path.c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("chmod ", path));
  return directory;
}

RunDirectory::~RunDirectory() {
  std::error_code error;
  if (process_ == getpid()) std::filesystem::remove_all(path_, error);
}

absl::StatusOr<std::string> CopyForAll(const std::string& from, const std::string& to) {
  std::error_code error;
  std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing, error);
  if (!error) std::filesystem::permissions(to, std::filesystem::perms(0644), error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("copy ", from, " to ", to));
  return to;
}

}  // namespace quire
