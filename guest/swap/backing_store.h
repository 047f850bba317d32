// Where stored pages go when the pool is to have their room: bytes outside the pool, by offset, that are slow to reach
// and may be lost. A file or an NBD export; what lies where in them is not its business.
#ifndef QUIRE_GUEST_SWAP_BACKING_STORE_H_
#define QUIRE_GUEST_SWAP_BACKING_STORE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/units.h"

namespace quire {

// Thread safe: transfers of several threads are under way at once. No lock of guests' memory is held during any call.
class BackingStore {
 public:
  // What every offset and length is a multiple of, and every address too: that of memory pages and of the largest
  // logical blocks of disks, so that transfers can go past the host's page cache.
  static constexpr size_t kAlignment = kPageSize;

  // Ranges do not overlap, and lie within size().
  struct Transfer {
    ByteCount offset;
    absl::Span<std::byte> bytes;  // aligned in length and address; read only where the transfer is a write
  };

  virtual ~BackingStore() = default;

  // The kind, as in the report: "file" or "nbd".
  virtual absl::string_view name() const = 0;
  // For messages: "the swap file FILE", "the NBD export URI".
  virtual std::string description() const = 0;
  // How many bytes it has room for, by what it was told when it was opened.
  virtual ByteCount size() const = 0;

  // Returns when all transfers are done, which go out together: what is adjacent goes as one. Never waits for a store
  // that is away to come back.
  // Errors: ResourceExhausted  there is no room where this was to be written; what was written before is there
  //         Unavailable        it is away just now, and may come back
  //         DataLoss           the store failed; it is no good any more
  // After an error, what the ranges hold is unknown.
  virtual absl::Status Write(absl::Span<const Transfer> transfers) = 0;

  enum class IfAway : uint8_t { kWait, kFail };
  // The same for reading. With kWait, waits for a store that is away as long as it was told to, and tries again then.
  // Errors: Unavailable        it did not come back in time
  //         DataLoss           the store failed to read one of them
  virtual absl::Status Read(absl::Span<const Transfer> transfers, IfAway if_away) = 0;

  // What the range held will not be read again: its room may be given back. A hint; does not wait for long.
  virtual void Discard(ByteCount offset, ByteCount length) = 0;

  // For teardown: transfers that wait for the store return Unavailable promptly, and so does every later one. A store
  // that never waits for long need not do anything. Any thread may call it, more than once.
  virtual void Cancel() {}
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_BACKING_STORE_H_
