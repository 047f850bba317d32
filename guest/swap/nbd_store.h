// Cold memory on whatever serves NBD (https://github.com/NetworkBlockDevice/nbd, doc/proto.md): another machine's
// memory or disk, a file behind nbdkit or qemu-nbd.
//
// A server may be lost at any time, and come back. All connections to it are one link, which is up or away: when one
// connection ends, or a request stays without an answer, all of them are closed, everything under way is lost, and a
// thread of the store connects again, first soon and then less and less often. Who reads waits for that; who writes is
// told at once, since what is to be written can stay where it is.
//
//             a connection ends, no answer                  it is smaller than it was
//   link up  ------------------------------> link away  ------------------------------> failed, for good
//            <------------------------------
//                 connected again, all of them
#ifndef QUIRE_GUEST_SWAP_NBD_STORE_H_
#define QUIRE_GUEST_SWAP_NBD_STORE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/counters.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "guest/swap/backing_store.h"
#include "guest/swap/nbd_connection.h"

namespace quire {

struct NbdStoreOptions {
  // nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, and with TLS nbds:// and nbds+unix://
  // (nbd_connect_uri(3)).
  std::string uri = {};
  // How many at most. One is used if the server does not say that several see the same bytes (multi-conn), fewer if it
  // refuses more.
  int connections = 4;
  // A smaller export is refused.
  ByteCount minimum_size = ByteCount::Bytes(kBlockSize);
  // How long a read waits, from the moment it finds the server away, for it to come back and answer.
  absl::Duration retry_for = absl::Seconds(60);
  // A request, or the greeting of a new connection, without an answer for so long means that the server is lost.
  absl::Duration request_timeout = absl::Seconds(30);
  // Between two attempts to connect: the first and the longest time; a random part of up to a half is taken off, so
  // that the clients of a server that was restarted do not come all at once.
  absl::Duration min_backoff = absl::Milliseconds(10);
  absl::Duration max_backoff = absl::Seconds(1);
};

struct NbdStoreCounters {
  Counter read_requests, write_requests, trim_requests;  // sent, also those that failed
  Counter bytes_read, bytes_written;                     // of requests that were answered without an error
  Counter links_lost;
  Counter reconnects;
  Counter reconnects_failed;
  Counter reads_lost;              // the link was lost under a read, which then waits
  Counter reads_refused_away;      // it did not come back in time
  Counter reads_refused_error;     // the server answered with an error
  Counter writes_refused_away;     // the link was away when it came
  Counter writes_refused_lost;     // the link was lost under it
  Counter writes_refused_no_room;  // the server answered that it has no room
  Counter writes_refused_error;    // the server answered with another error
  Counter trims_done;
  Counter trims_failed;   // the server's answer, or the link was lost
  Counter trims_skipped;  // the server cannot, the link was away, or too many were under way
};

// The trims under way. The server may carry requests out in any order, so that a write to where a trim is under way
// waits for its answer.
class NbdTrims final : public NbdCompletion {
 public:
  explicit NbdTrims(NbdStoreCounters& counters) : counters_(counters) {}

  // A request for the caller to submit; null when too many are under way.
  NbdRequest* Begin(ByteCount offset, ByteCount length);
  // Until none of the ranges is being trimmed: not for longer than a request may take.
  void AwaitNone(absl::Span<const BackingStore::Transfer> transfers);
  void Done(NbdRequest& request, int error) override;

 private:
  bool Touches(absl::Span<const BackingStore::Transfer> transfers) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  NbdStoreCounters& counters_;
  mutable absl::Mutex lock_;
  std::list<NbdRequest> under_way_ ABSL_GUARDED_BY(lock_);
};

// Thread safe, as BackingStore is. Has one thread, which sees to the answers and to the link; requests are sent by who
// asks for them, spread over the connections. Its lock is held only to look at the link's state and to change it.
//
// What a request did that was lost is not known, and a server that lives on may still carry it out after the store has
// connected again. Nor does the store see that a server lost what it held and came back empty. Checksums tell both.
class NbdStore final : public BackingStore {
 public:
  static constexpr int kMaxConnections = 64;
  static constexpr absl::Duration kMaxTime = absl::Hours(24 * 365);

  // Connects; does not wait for a server that is not there.
  // Errors: FailedPrecondition  libnbd is not installed; the export is read-only, too small or made of too large blocks
  //         InvalidArgument     the URI or the options
  //         Unavailable         there is no server there that speaks NBD and has this export
  static absl::StatusOr<std::unique_ptr<NbdStore>> Open(const NbdStoreOptions& options);
  // Ends quickly, also while the server is away. No call is under way.
  ~NbdStore() override;

  absl::string_view name() const override { return "nbd"; }
  std::string description() const override { return "the NBD export " + options_.uri; }
  ByteCount size() const override { return size_; }
  // Adjacent transfers go as one request where their memory is adjacent too; one that is larger than the server takes
  // goes as several.
  absl::Status Write(absl::Span<const Transfer> transfers) override;
  absl::Status Read(absl::Span<const Transfer> transfers, IfAway if_away) override;
  // Trims if the server can, and does not wait for it.
  void Discard(ByteCount offset, ByteCount length) override;
  void Cancel() override;

  const NbdStoreCounters& counters() const { return counters_; }
  // How many connections the link has, or had when it was last up.
  int connections() const { return static_cast<int>(active_.load()); }

 private:
  enum class Link : uint8_t { kUp, kAway, kFailed, kCancelled };
  struct Outcome;
  class Batch;

  NbdStore(const NbdLibrary& nbd, NbdStoreOptions options, UniqueFd wake_fd, UniqueFd stop_fd);

  // The store's thread.
  void Run();
  void Serve();
  void Reconnect();
  absl::Status DriveAll(absl::Span<const pollfd> ready);
  void LoseLink(const absl::Status& why);
  void Pause(absl::Duration time);
  bool stopping() const;

  // Opens the connections and takes over what the server says. The calling thread is the store's, or there is none yet.
  absl::Status Connect();
  absl::StatusOr<NbdExport> ConnectAll();
  absl::Status CheckUsable(const NbdExport& made) const;

  // Sends requests for all transfers and waits for their ends.
  Outcome Move(NbdRequest::Kind kind, absl::Span<const Transfer> transfers);
  std::vector<NbdRequest> Cut(NbdRequest::Kind kind, absl::Span<const Transfer> transfers) const;
  void Submit(NbdRequest& request);
  // Waits for a link later than `after` until `deadline`, and returns its number. Zero for the deadline: nothing has
  // been waited for yet; it is set then.
  absl::StatusOr<uint64_t> AwaitLink(uint64_t after, MonotonicTime& deadline);
  absl::Status RefusalLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const NbdLibrary& nbd_;
  const NbdStoreOptions options_;
  NbdStoreCounters counters_;
  NbdTrims trims_{counters_};
  UniqueFd wake_fd_;  // an eventfd: look at the connections again
  UniqueFd stop_fd_;  // an eventfd, readable for good once the thread is to end

  ByteCount size_;  // set by the first Connect
  std::vector<std::unique_ptr<NbdConnection>> connections_;
  std::atomic<size_t> active_ = 0;  // of these; the rest are closed
  std::atomic<size_t> next_ = 0;    // which one gets the next request
  std::atomic<uint64_t> maximum_payload_ = 0;
  std::atomic<bool> can_trim_ = false;

  // Of the store's thread.
  absl::Duration backoff_;
  MonotonicTime up_since_;
  std::minstd_rand random_{std::random_device()()};

  mutable absl::Mutex lock_;
  Link link_ ABSL_GUARDED_BY(lock_) = Link::kAway;
  uint64_t links_made_ ABSL_GUARDED_BY(lock_) = 0;
  MonotonicTime away_since_ ABSL_GUARDED_BY(lock_);
  std::string why_ ABSL_GUARDED_BY(lock_);  // it is not up

  std::thread thread_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_NBD_STORE_H_
