#include "vmm/virtio/disk_image.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {
namespace {

absl::Status OpenError(int error, const std::string& path, DiskImage::Mode mode) {
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(
          absl::StrCat("there is no disk image ", path, "; make an empty one with `truncate -s 1G ", path, "`"));
    case EISDIR:
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is a directory and cannot be a disk: name a file with the disk's bytes"));
    case EACCES:
    case EPERM:
    case EROFS:
      if (mode == DiskImage::Mode::kReadOnly) {
        return absl::PermissionDeniedError(absl::StrCat("the disk image ", path, " may not be read by this user"));
      }
      return absl::PermissionDeniedError(
          absl::StrCat("the disk image ", path, " may not be written by this user: use it read-only, or a copy of it"));
    default:
      return absl::ErrnoToStatus(error, absl::StrCat("open the disk image ", path));
  }
}

// OK: a file can be a disk.
absl::Status CheckFile(const struct stat& file, const std::string& path) {
  if (S_ISDIR(file.st_mode)) return OpenError(EISDIR, path, DiskImage::Mode::kReadOnly);
  if (!S_ISREG(file.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file and cannot be a disk: copy it to one"));
  }
  if (file.st_size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the disk image ", path, " is empty: make it longer with `truncate -s 1G ", path, "`"));
  }
  if (file.st_size % DiskImage::kSectorSize != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the disk image ", path, " has ", file.st_size,
                                                   " bytes, which are not whole sectors of ", DiskImage::kSectorSize,
                                                   ": make it longer with `truncate -s %", DiskImage::kSectorSize, " ",
                                                   path, "`, unless it is not a raw image"));
  }
  return absl::OkStatus();
}

using Vector = absl::InlinedVector<iovec, 16>;

// Takes what has been transferred off the front.
void Consume(Vector& vector, size_t& first, size_t done) {
  for (; done > 0 && done >= vector[first].iov_len; ++first) done -= vector[first].iov_len;
  if (done == 0) return;
  vector[first].iov_base = static_cast<std::byte*>(vector[first].iov_base) + done;
  vector[first].iov_len -= done;
}

// Calls transfer(vector, count, offset), which is preadv or pwritev, until all is done. Returns 0, errno, or -1: there
// is nothing there.
template <class Transfer>
int TransferAll(ByteCount offset, absl::Span<const absl::Span<std::byte>> pieces, Transfer transfer) {
  QUIRE_CHECK(pieces.size() <= DiskImage::kMostPieces);
  Vector vector;
  for (const absl::Span<std::byte> piece : pieces) {
    if (!piece.empty()) vector.push_back({.iov_base = piece.data(), .iov_len = piece.size()});
  }
  off_t at = static_cast<off_t>(offset.in_bytes());
  for (size_t first = 0; first < vector.size();) {
    const ssize_t done = transfer(&vector[first], static_cast<int>(vector.size() - first), at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    if (done == 0) return -1;
    at += done;
    Consume(vector, first, static_cast<size_t>(done));
  }
  return 0;
}

int Allocate(int fd, int mode, ByteCount offset, ByteCount size) {
  int result;
  do {
    result = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset.in_bytes()),
                       static_cast<off_t>(size.in_bytes()));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace

absl::StatusOr<DiskImage> DiskImage::Open(const std::string& path, Mode mode) {
  // Without O_NONBLOCK a pipe would be waited for.
  const int flags = (mode == Mode::kReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;
  UniqueFd fd(open(path.c_str(), flags));
  if (!fd.valid()) return OpenError(errno, path, mode);
  struct stat file;
  if (fstat(fd.get(), &file) != 0) return OpenError(errno, path, mode);
  if (absl::Status status = CheckFile(file, path); !status.ok()) return status;
  if (flock(fd.get(), (mode == Mode::kReadOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return absl::ErrnoToStatus(errno, absl::StrCat("lock the disk image ", path));
    return absl::UnavailableError(
        absl::StrCat("the disk image ", path, " is in use by another guest: give each that writes a copy of its own"));
  }
  return DiskImage(std::move(fd), path, mode, static_cast<uint64_t>(file.st_size) / kSectorSize);
}

DiskImage::DiskImage(UniqueFd fd, std::string path, Mode mode, uint64_t sectors)
    : fd_(std::move(fd)), path_(std::move(path)), mode_(mode), sectors_(sectors) {}

absl::Status DiskImage::Error(int error, const char* attempt) const {
  if (error == 0) return absl::OkStatus();
  if (error < 0) return absl::DataLossError(absl::StrCat("the disk image ", path_, " has become shorter"));
  return absl::ErrnoToStatus(error, absl::StrCat(attempt, " the disk image ", path_));
}

absl::Status DiskImage::Read(ByteCount offset, absl::Span<const absl::Span<std::byte>> pieces) const {
  const auto transfer = [this](const iovec* vector, int count, off_t at) {
    return preadv(fd_.get(), vector, count, at);
  };
  return Error(TransferAll(offset, pieces, transfer), "read");
}

absl::Status DiskImage::Write(ByteCount offset, absl::Span<const absl::Span<std::byte>> pieces) const {
  const auto transfer = [this](const iovec* vector, int count, off_t at) {
    return pwritev(fd_.get(), vector, count, at);
  };
  return Error(TransferAll(offset, pieces, transfer), "write");
}

absl::Status DiskImage::Flush() const {
  int result;
  do {
    result = fdatasync(fd_.get());
  } while (result != 0 && errno == EINTR);
  return Error(result == 0 ? 0 : errno, "flush");
}

absl::Status DiskImage::Discard(ByteCount offset, ByteCount size) const {
  const int error = Allocate(fd_.get(), FALLOC_FL_PUNCH_HOLE, offset, size);
  return Error(error == EOPNOTSUPP ? 0 : error, "discard a part of");
}

absl::Status DiskImage::WriteZeroes(ByteCount offset, ByteCount size, bool may_unmap) const {
  const int mode = may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
  const int error = Allocate(fd_.get(), mode, offset, size);
  return error == EOPNOTSUPP ? WriteZeroBytes(offset, size) : Error(error, "zero a part of");
}

absl::Status DiskImage::WriteZeroBytes(ByteCount offset, ByteCount size) const {
  static constexpr uint64_t kAtOnce = 64 << 10;
  std::array<std::byte, kAtOnce> zeros = {};
  for (uint64_t done = 0; done < size.in_bytes(); done += kAtOnce) {
    const absl::Span<std::byte> piece = absl::MakeSpan(zeros).first(std::min(kAtOnce, size.in_bytes() - done));
    if (absl::Status status = Write(offset + ByteCount::Bytes(done), {piece}); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace quire
