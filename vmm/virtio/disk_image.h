// A file on the host that is a guest's disk, byte for byte.
#ifndef QUIRE_VMM_VIRTIO_DISK_IMAGE_H_
#define QUIRE_VMM_VIRTIO_DISK_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace quire {

// Thread safe, as far as requests do not touch the same bytes: those have no order.
class DiskImage {
 public:
  static constexpr uint64_t kSectorSize = 512;  // bytes, the unit of virtio-blk

  enum class Mode : uint8_t { kReadOnly, kReadWrite };

  // Opens a regular file of whole sectors. As long as it is open, nobody else can open it for writing by this function,
  // and for reading only if this is for reading too.
  // Errors, each with what to do: NotFound, PermissionDenied, InvalidArgument (it cannot be a disk), Unavailable (it is
  // in use), or what the host says.
  static absl::StatusOr<DiskImage> Open(const std::string& path, Mode mode);

  bool read_only() const { return mode_ == Mode::kReadOnly; }
  uint64_t sectors() const { return sectors_; }
  const std::string& path() const { return path_; }

  // All of these are within the image, and only Read is for an image that is read-only. Errors: what the host says;
  // DataLoss, the file has become shorter.

  // From byte `offset` on into pieces of memory, or out of them, at most kMostPieces.
  static constexpr size_t kMostPieces = 256;
  absl::Status Read(ByteCount offset, absl::Span<const absl::Span<std::byte>> pieces) const;
  absl::Status Write(ByteCount offset, absl::Span<const absl::Span<std::byte>> pieces) const;
  // What has been written is on the host's disk when this returns.
  absl::Status Flush() const;
  // The content is of no use any more. Does nothing where the host's filesystem cannot make holes.
  absl::Status Discard(ByteCount offset, ByteCount size) const;
  // The range reads as zero; `may_unmap`: and need not have room in the file any more.
  absl::Status WriteZeroes(ByteCount offset, ByteCount size, bool may_unmap) const;

 private:
  DiskImage(UniqueFd fd, std::string path, Mode mode, uint64_t sectors);

  absl::Status WriteZeroBytes(ByteCount offset, ByteCount size) const;
  absl::Status Error(int error, const char* attempt) const;

  UniqueFd fd_;
  std::string path_;
  Mode mode_;
  uint64_t sectors_;
};

}  // namespace quire

#endif  // QUIRE_VMM_VIRTIO_DISK_IMAGE_H_
