#include "vmm/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace quire {
namespace {

absl::Status Bad(absl::string_view flag, const std::string& path, absl::string_view what, absl::string_view advice) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", path, " ", what, ": ", advice));
}

// "No such file or directory", as the middle of a sentence.
std::string Reason(int error) {
  std::string text = std::strerror(error);
  if (text.size() > 1 && text[1] >= 'a') text[0] = static_cast<char>(text[0] | 0x20);
  return text;
}

// Whether `path` is written to where it is instead of being replaced: devices and pipes.
bool WrittenInPlace(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
}

// The file behind any symbolic links, so that a link stays one.
std::string Target(const std::string& path) {
  char* resolved = realpath(path.c_str(), nullptr);
  std::string target = resolved == nullptr ? path : resolved;
  std::free(resolved);
  return target;
}

// A new file beside `path`, with the permissions that `path` has or would get. -1 and errno on failure.
int OpenBeside(const std::string& path, std::string* name) {
  *name = absl::StrCat(path, ".XXXXXX");
  const int fd = mkostemp(name->data(), O_CLOEXEC);
  if (fd < 0) return fd;
  struct stat info;
  mode_t mode = 0;
  if (stat(path.c_str(), &info) == 0) {
    mode = info.st_mode & 0777;
  } else {
    const mode_t mask = umask(0);
    umask(mask);
    mode = 0666 & ~mask;
  }
  fchmod(fd, mode);
  return fd;
}

bool WriteInPlace(const std::string& path, absl::string_view contents) {
  const int fd = path == "-" ? dup(STDOUT_FILENO) : open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = WriteAll(fd, contents);
  return close(fd) == 0 && written;
}

bool Replace(const std::string& path, absl::string_view contents) {
  const std::string target = Target(path);
  std::string name;
  const int fd = OpenBeside(target, &name);
  if (fd < 0) return false;
  const bool written = WriteAll(fd, contents);
  if (close(fd) == 0 && written && rename(name.c_str(), target.c_str()) == 0) return true;
  const int error = errno;
  unlink(name.c_str());
  errno = error;
  return false;
}

}  // namespace

absl::Status CheckReadable(absl::string_view flag, const std::string& path) {
  const std::string advice = "name a file that can be read";
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return Bad(flag, path, absl::StrCat("cannot be read (", Reason(errno), ")"), advice);
  struct stat info;
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  close(fd);
  if (!regular) return Bad(flag, path, "is not a regular file", advice);
  if (info.st_size == 0) return Bad(flag, path, "is empty", "name a file that holds something");
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWhole(absl::string_view flag, const std::string& path, ByteCount limit) {
  if (absl::Status status = CheckReadable(flag, path); !status.ok()) return status;
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (!fd.valid() || fstat(fd.get(), &info) != 0) return Bad(flag, path, "cannot be read", Reason(errno));
  const size_t size = static_cast<size_t>(info.st_size);
  if (size > limit.in_bytes()) {
    return Bad(flag, path, "is too large", absl::StrCat("at most ", limit.in_mib(), " MiB are read"));
  }
  std::string contents(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(fd.get(), contents.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Bad(flag, path, "cannot be read", Reason(errno));
    if (n == 0) break;  // it has become shorter meanwhile
    done += static_cast<size_t>(n);
  }
  contents.resize(done);
  return contents;
}

absl::Status CheckWritable(absl::string_view flag, const std::string& path) {
  const std::string advice = "name a file in a directory that you may write to, or - for standard output";
  struct stat info;
  if (path == "-") return absl::OkStatus();
  if (stat(path.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) return Bad(flag, path, "is a directory", "name a file in it");
    if (access(path.c_str(), W_OK) != 0) {
      return Bad(flag, path, absl::StrCat("cannot be written (", Reason(errno), ")"), advice);
    }
    if (WrittenInPlace(path)) return absl::OkStatus();
  }
  std::string name;
  const int fd = OpenBeside(Target(path), &name);
  if (fd < 0) return Bad(flag, path, absl::StrCat("cannot be written (", Reason(errno), ")"), advice);
  close(fd);
  unlink(name.c_str());
  return absl::OkStatus();
}

absl::Status WriteWhole(const std::string& path, absl::string_view contents) {
  const bool in_place = path == "-" || WrittenInPlace(path);
  if (in_place ? WriteInPlace(path, contents) : Replace(path, contents)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the report could not be written to ",
                                             path == "-" ? "standard output" : path, " (", Reason(errno),
                                             "): make room there, or name another file"));
}

bool WriteAll(int fd, absl::string_view contents) {
  while (!contents.empty()) {
    const ssize_t written = write(fd, contents.data(), contents.size());
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) contents.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace quire
