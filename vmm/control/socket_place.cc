#include "vmm/control/socket_place.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace quire {
namespace {

constexpr absl::string_view kSuffix = ".sock";

// Whether the directory is there, or has been made, and only this user can put anything into it.
bool HaveOwn(const std::string& directory) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return false;
  struct stat found;
  return lstat(directory.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
         (found.st_mode & (S_IWGRP | S_IWOTH)) == 0 && access(directory.c_str(), W_OK) == 0;
}

}  // namespace

std::vector<std::string> ControlDirectories() {
  std::vector<std::string> directories;
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') directories.push_back(absl::StrCat(runtime, "/quire"));
  directories.push_back("/run/quire");
  directories.push_back(absl::StrCat("/tmp/quire-", geteuid()));
  return directories;
}

absl::StatusOr<std::string> PlaceForSocket(const std::vector<std::string>& directories) {
  for (const std::string& directory : directories) {
    std::string path = absl::StrCat(directory, "/", getpid(), kSuffix);
    if (SocketAddress(path).ok() && HaveOwn(directory)) return path;
  }
  return absl::FailedPreconditionError("no directory for a control socket can be had: name a path with --control=PATH");
}

absl::StatusOr<sockaddr_un> SocketAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat("the path of a socket has 1 to ", sizeof address.sun_path - 1,
                                                   " bytes, and ", path, " has ", path.size()));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> ConnectTo(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  if (!address.ok()) return address.status();
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval patience = {.tv_sec = 10, .tv_usec = 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("no run of guests listens on ", path, " (", std::strerror(errno), ")"));
  }
  return socket;
}

std::vector<std::string> RunningSockets(const std::vector<std::string>& directories) {
  std::vector<std::string> found;
  for (const std::string& directory : directories) {
    const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(directory.c_str()), closedir);
    if (entries == nullptr) continue;
    while (const dirent* const entry = readdir(entries.get())) {
      const std::string path = absl::StrCat(directory, "/", entry->d_name);
      // What a killed run has left behind answers nobody.
      if (absl::EndsWith(path, kSuffix) && ConnectTo(path).ok()) found.push_back(path);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace quire
