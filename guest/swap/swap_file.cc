#include "guest/swap/swap_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quire {
namespace {

constexpr absl::string_view kSignature = "quire swap 1\n";
constexpr absl::string_view kTemporary = "quire swap 1\ntemporary\n";

// No filesystem has files as large, and the arithmetic is safe.
constexpr ByteCount kMost = ByteCount::GiB(uint64_t{1} << 30);

// Between looking at a path and having a lock, somebody else may replace what is there.
constexpr int kOpenTries = 5;

absl::Status SizeMissing(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat("the swap file ", path, " has no size yet: say how large it is to be"));
}

absl::Status CannotOpen(const std::string& description, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("open ", description));
}

// Of the same file, whatever it is called.
bool SameFile(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

bool LeadsTo(const std::string& path, int fd) {
  struct stat at_path, open;
  return stat(path.c_str(), &at_path) == 0 && fstat(fd, &open) == 0 && SameFile(at_path, open);
}

bool IsLink(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISLNK(st.st_mode);
}

// How the file begins, as far as that says whose it is.
std::string Beginning(int fd) {
  std::string text(kTemporary.size(), '\0');
  const ssize_t got = pread(fd, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return text;
}

// What follows the header, without a last page that is not whole.
ByteCount RoomIn(uint64_t bytes) {
  const uint64_t whole = bytes / kPageSize * kPageSize;
  return whole < kPageSize ? ByteCount() : ByteCount::Bytes(whole) - SwapFile::kHeader;
}

absl::string_view WhatElse(mode_t mode) {
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a character device";
}

}  // namespace

absl::StatusOr<SwapFile> SwapFile::Open(const std::string& path, ByteCount size) {
  if (size > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat("a swap file of ", size.in_bytes(), " bytes: no file is that large; ask for less"));
  }
  if (!size.page_aligned()) {
    return absl::InvalidArgumentError(absl::StrCat("a swap file of ", size.in_bytes(),
                                                   " bytes: the size must be a multiple of ", kPageSize,
                                                   " bytes, the size of a page"));
  }
  for (int tries = 0; tries < kOpenTries; ++tries) {
    absl::StatusOr<SwapFile> file = OpenOnce(path, size);
    if (!absl::IsAborted(file.status())) return file;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the swap file ", path, " is in use: other runs make and remove it"));
}

absl::StatusOr<SwapFile> SwapFile::OpenOnce(const std::string& path, ByteCount size) {
  struct stat st;
  if (stat(path.c_str(), &st) != 0) {
    if (errno == ENOENT) return Make(path, size);
    return CannotOpen(absl::StrCat("the swap file ", path), errno);
  }
  if (S_ISDIR(st.st_mode)) return OpenUnnamed(path, size);
  if (S_ISREG(st.st_mode)) return OpenFile(path, size);
  if (S_ISBLK(st.st_mode)) return OpenDevice(path, size);
  return absl::InvalidArgumentError(absl::StrCat("swap cannot go to ", path, ", which is ", WhatElse(st.st_mode),
                                                 ": name a file, a directory or a block device"));
}

absl::StatusOr<SwapFile> SwapFile::OpenUnnamed(const std::string& directory, ByteCount size) {
  if (size == ByteCount()) return SizeMissing(absl::StrCat("in ", directory));
  SwapFile file(UniqueFd(open(directory.c_str(), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600)),
                absl::StrCat("the unnamed swap file in ", directory));
  // Not every filesystem has unnamed files.
  if (!file.fd_.valid() && errno == EOPNOTSUPP) {
    std::string name = absl::StrCat(directory, "/quire-swap-XXXXXX");
    file.fd_.reset(mkostemp(name.data(), O_CLOEXEC));
    if (file.fd_.valid()) unlink(name.c_str());
  }
  if (!file.fd_.valid()) return CannotOpen(file.description_, errno);
  if (absl::Status status = file.Extend(size); !status.ok()) return status;
  return file;
}

absl::StatusOr<SwapFile> SwapFile::Make(const std::string& path, ByteCount size) {
  if (IsLink(path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the swap file ", path, " is a symbolic link that leads nowhere: remove it, or name another file"));
  }
  if (size == ByteCount()) return SizeMissing(path);
  SwapFile file(UniqueFd(open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600)),
                absl::StrCat("the swap file ", path));
  if (!file.fd_.valid() && errno == EEXIST) return absl::AbortedError("made by somebody else meanwhile");
  if (!file.fd_.valid()) return CannotOpen(file.description_, errno);
  if (absl::Status status = file.Lock(path); !status.ok()) return status;
  file.RemoveAtEnd(path);
  if (absl::Status status = file.WriteHeader(/*temporary=*/true); !status.ok()) return status;
  if (absl::Status status = file.Extend(size); !status.ok()) return status;
  return file;
}

absl::StatusOr<SwapFile> SwapFile::OpenFile(const std::string& path, ByteCount size) {
  SwapFile file(UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC)), absl::StrCat("the swap file ", path));
  if (!file.fd_.valid()) return CannotOpen(file.description_, errno);
  if (absl::Status status = file.Lock(path); !status.ok()) return status;
  struct stat st;
  if (fstat(file.fd(), &st) != 0) return CannotOpen(file.description_, errno);
  const std::string beginning = Beginning(file.fd());
  if (st.st_size != 0 && !absl::StartsWith(beginning, kSignature)) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is not empty and no swap file of Quire's, so it is not overwritten: name another file, or, if nothing ",
        "in it is needed, empty it (truncate -s 0 ", path, ")"));
  }
  const bool temporary = beginning == kTemporary;
  if (temporary) file.RemoveAtEnd(path);
  if (size == ByteCount()) size = RoomIn(static_cast<uint64_t>(st.st_size));
  if (size == ByteCount()) return SizeMissing(path);
  // What a killed run left takes room on the disk.
  if (temporary && ftruncate(file.fd(), 0) != 0) return CannotOpen(file.description_, errno);
  if (absl::Status status = file.WriteHeader(temporary); !status.ok()) return status;
  if (absl::Status status = file.Extend(size); !status.ok()) return status;
  return file;
}

absl::StatusOr<SwapFile> SwapFile::OpenDevice(const std::string& path, ByteCount size) {
  SwapFile file(UniqueFd(open(path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC)), absl::StrCat("the swap device ", path));
  if (!file.fd_.valid() && errno == EBUSY) {
    return absl::FailedPreconditionError(
        absl::StrCat(file.description_, " is in use: it is mounted, part of another device, or another run has it"));
  }
  if (!file.fd_.valid()) return CannotOpen(file.description_, errno);
  if (absl::Status status = file.Lock(path); !status.ok()) return status;
  if (!absl::StartsWith(Beginning(file.fd()), kSignature)) {
    return absl::FailedPreconditionError(absl::StrCat(
        file.description_, " has not been given to Quire, so it is not overwritten: name another one, or, if ",
        "nothing on it is needed, mark it (echo 'quire swap 1' | dd of=", path, ")"));
  }
  uint64_t bytes = 0;
  if (ioctl(file.fd(), BLKGETSIZE64, &bytes) != 0) return CannotOpen(file.description_, errno);
  const ByteCount room = RoomIn(bytes);
  if (room == ByteCount() || size > room) {
    return absl::InvalidArgumentError(absl::StrCat(file.description_, " has room for ", room.in_bytes(),
                                                   " bytes, not for ", size.in_bytes(),
                                                   ": ask for less, or name a larger one"));
  }
  file.size_ = size == ByteCount() ? room : size;
  file.is_device_ = true;
  if (absl::Status status = file.WriteHeader(/*temporary=*/false); !status.ok()) return status;
  return file;
}

SwapFile::~SwapFile() {
  if (fd_.valid() && !remove_.empty() && LeadsTo(remove_, fd())) unlink(remove_.c_str());
}

absl::Status SwapFile::Lock(const std::string& path) {
  if (flock(fd(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, absl::StrCat("lock ", description_));
    return absl::FailedPreconditionError(
        absl::StrCat(description_, " is in use by another run: name another one, or wait for that run to end"));
  }
  // The run that had it may have removed it between our open() and our lock.
  if (!LeadsTo(path, fd())) return absl::AbortedError(absl::StrCat(description_, " was removed"));
  return absl::OkStatus();
}

absl::Status SwapFile::WriteHeader(bool temporary) {
  std::array<char, kHeader.in_bytes()> header = {};
  const absl::string_view text = temporary ? kTemporary : kSignature;
  text.copy(header.data(), text.size());
  const ssize_t written = pwrite(fd(), header.data(), header.size(), 0);
  if (written == static_cast<ssize_t>(header.size())) return absl::OkStatus();
  return absl::ErrnoToStatus(written < 0 ? errno : ENOSPC, absl::StrCat("write the first page of ", description_));
}

absl::Status SwapFile::Extend(ByteCount size) {
  const uint64_t length = (kHeader + size).in_bytes();
  rlimit limit;
  // Beyond it the host would end this process (SIGXFSZ).
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && length > limit.rlim_cur) {
    return absl::FailedPreconditionError(
        absl::StrCat(description_, " of ", size.in_bytes(),
                     " bytes is larger than this process may write: raise the limit (ulimit -f) or ", "ask for less"));
  }
  struct stat st;
  if (fstat(fd(), &st) != 0) return CannotOpen(description_, errno);
  if (static_cast<uint64_t>(st.st_size) < length && ftruncate(fd(), static_cast<off_t>(length)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("extend ", description_, " to ", length, " bytes"));
  }
  size_ = size;
  return absl::OkStatus();
}

void SwapFile::RemoveAtEnd(const std::string& path) {
  // Without links, and good wherever this process goes.
  const std::unique_ptr<char, decltype(&std::free)> whole(realpath(path.c_str(), nullptr), &std::free);
  if (whole != nullptr) remove_ = whole.get();
}

}  // namespace quire
