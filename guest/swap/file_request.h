// One read or write of a file: adjacent transfers as one, and what is left of it when only a part was done.
#ifndef QUIRE_GUEST_SWAP_FILE_REQUEST_H_
#define QUIRE_GUEST_SWAP_FILE_REQUEST_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"

namespace quire {

enum class FileDirection : uint8_t { kRead, kWrite };

// Not thread safe. Refers to the bytes of the transfers that it was made of.
class FileRequest {
 public:
  // As much as goes out as one: a disk moves larger ones no faster, and parts of a larger transfer can go side by side.
  // 256 pieces of a page each, well below the 1024 that the kernel takes (IOV_MAX).
  static constexpr uint64_t kMaxBytes = uint64_t{1} << 20;

  explicit FileRequest(uint64_t offset) : offset_(offset) {}

  // What is still to be moved, for readv and its kin: to or from this offset in the file, through these pieces.
  uint64_t offset() const { return offset_; }
  uint64_t length() const { return length_; }
  const iovec* pieces() const { return pieces_.data() + first_piece_; }
  int piece_count() const { return static_cast<int>(pieces_.size() - first_piece_); }

  // Adds bytes that follow what it has in the file. There is room for them.
  void Append(absl::Span<std::byte> bytes);
  uint64_t room() const { return kMaxBytes - length_; }

  enum class Step : uint8_t { kDone, kAgain, kFailed };
  // Takes note of the kernel's answer, the number of bytes moved or a negative errno, and says what to do next: kAgain
  // is to ask for the rest.
  Step Advance(FileDirection direction, int64_t result);

  bool failed() const { return failed_; }
  // Of one that failed: an errno, or kEndOfFile.
  int error() const { return error_; }
  static constexpr int kEndOfFile = 0;
  // How often it had to be asked for again.
  uint32_t repeats() const { return repeats_; }

 private:
  Step Fail(int error);
  Step Repeat();
  void Consume(uint64_t bytes);

  uint64_t offset_;
  uint64_t length_ = 0;
  std::vector<iovec> pieces_;
  size_t first_piece_ = 0;
  uint32_t repeats_ = 0;
  uint32_t futile_ = 0;  // answers in a row without progress
  int error_ = 0;
  bool failed_ = false;
};

// Requests that do the transfers, in the order of their offsets, with `base` added to these: what is adjacent becomes
// one, what is larger than kMaxBytes several.
std::vector<FileRequest> MakeFileRequests(absl::Span<const BackingStore::Transfer> transfers, ByteCount base);

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_FILE_REQUEST_H_
