// What a swap file is on the host: found or made, locked, known by its first page, and removed at the end if it was
// made.
//
//   offset 0        kHeader                                   kHeader + size
//   +---------------+-----------------------------------------+
//   | "quire swap 1\n", a second line "temporary\n", zeros    |
//   +---------------+-----------------------------------------+
//
// Nothing is overwritten that might be somebody's: a file that is not empty and a block device must begin with the
// first line, as those do that Quire made, or that somebody has given to it by writing that line. (mkswap does the same
// for the host's own swap.) The second line says that Quire made the file and that it is to go at the end: a run that
// is killed leaves its file, and the next run with that path takes it over and removes it.
#ifndef QUIRE_GUEST_SWAP_SWAP_FILE_H_
#define QUIRE_GUEST_SWAP_SWAP_FILE_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace quire {

// Move-only; not thread safe.
class SwapFile {
 public:
  static constexpr ByteCount kHeader = ByteCount::Bytes(kPageSize);

  // `path` is one of
  //   a directory       an unnamed file in it, gone when it is closed
  //   nothing yet       a file is made, for its owner only, and removed at the end
  //   a regular file    empty, or begins as above; stays, unless a run that was killed had made it
  //   a block device    begins as above
  // or a symbolic link to one. All but the first are locked (flock; devices also against everybody else, by O_EXCL).
  // Files are sparse: that the disk is full shows when they are written. `size` is the room for data, whole pages; 0 is
  // what the device or the file has.
  // Errors: InvalidArgument     no size, one that does not fit, or a path of another kind
  //         FailedPrecondition  in use, or not to be overwritten
  //         others              what the host reports
  static absl::StatusOr<SwapFile> Open(const std::string& path, ByteCount size);

  SwapFile(SwapFile&&) = default;
  SwapFile& operator=(SwapFile&&) = delete;
  ~SwapFile();

  int fd() const { return fd_.get(); }
  ByteCount size() const { return size_; }
  bool is_device() const { return is_device_; }
  // For messages: "the swap file FILE".
  const std::string& description() const { return description_; }

 private:
  SwapFile(UniqueFd fd, std::string description) : fd_(std::move(fd)), description_(std::move(description)) {}

  // Aborted: somebody else made, removed or replaced the file meanwhile. One for each kind of path follows.
  static absl::StatusOr<SwapFile> OpenOnce(const std::string& path, ByteCount size);
  static absl::StatusOr<SwapFile> OpenUnnamed(const std::string& directory, ByteCount size);
  static absl::StatusOr<SwapFile> Make(const std::string& path, ByteCount size);
  static absl::StatusOr<SwapFile> OpenFile(const std::string& path, ByteCount size);
  static absl::StatusOr<SwapFile> OpenDevice(const std::string& path, ByteCount size);

  absl::Status Lock(const std::string& path);
  absl::Status WriteHeader(bool temporary);
  // Makes a file as long as `size` takes, which is its size then.
  absl::Status Extend(ByteCount size);
  void RemoveAtEnd(const std::string& path);

  UniqueFd fd_;
  std::string description_;
  ByteCount size_;
  bool is_device_ = false;
  std::string remove_;  // the path; empty: stays
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_SWAP_FILE_H_
