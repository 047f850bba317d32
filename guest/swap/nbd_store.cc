#include "guest/swap/nbd_store.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/thread.h"

namespace quire {
namespace {

// More say that the server is slow at it, and each write compares itself with all of them.
constexpr size_t kMaxTrims = 64;
// Less than the 4 GiB that a request can name.
constexpr ByteCount kMaxTrim = ByteCount::GiB(1);

void Signal(const UniqueFd& event_fd) {
  const uint64_t one = 1;
  // Fails when the count would overflow: it is readable then.
  [[maybe_unused]] const ssize_t written = write(event_fd.get(), &one, sizeof(one));
}

void Drain(const UniqueFd& event_fd) {
  uint64_t count;
  [[maybe_unused]] const ssize_t done = read(event_fd.get(), &count, sizeof(count));
}

// poll(), for an hour at most: callers look and wait again.
int Wait(absl::Span<pollfd> what, absl::Duration time) {
  return poll(what.data(), what.size(),
              static_cast<int>(absl::ToInt64Milliseconds(std::min(time, absl::Hours(1)))) + 1);
}

pollfd Readable(const UniqueFd& fd) { return {.fd = fd.get(), .events = POLLIN, .revents = 0}; }

absl::Status CheckOptions(const NbdStoreOptions& options) {
  if (options.uri.empty()) {
    return absl::InvalidArgumentError("an NBD store needs a URI, for example nbd://HOST:10809/EXPORT");
  }
  if (options.connections < 1 || options.connections > NbdStore::kMaxConnections) {
    return absl::InvalidArgumentError(
        absl::StrCat("an NBD store uses 1 to ", NbdStore::kMaxConnections, " connections, not ", options.connections));
  }
  for (absl::Duration time : {options.retry_for, options.request_timeout, options.min_backoff, options.max_backoff}) {
    if (time < absl::ZeroDuration() || time > NbdStore::kMaxTime) {
      return absl::InvalidArgumentError(
          absl::StrCat("an NBD store can wait for zero time to a year, not for ", absl::FormatDuration(time)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

// How the requests of one call ended.
struct NbdStore::Outcome {
  int error = 0;      // an answer of the server; another one counts for more than ENOSPC
  bool lost = false;  // some requests got none
};

// Waits for the requests of one call.
class NbdStore::Batch final : public NbdCompletion {
 public:
  Batch(NbdStoreCounters& counters, size_t requests) : counters_(counters), left_(requests) {}

  void Done(NbdRequest& request, int error) override {
    if (error == 0) Bytes(request.kind).Add(request.length.in_bytes());
    absl::MutexLock lock(&lock_);
    if (error == kLost) {
      outcome_.lost = true;
    } else if (error != 0 && (outcome_.error == 0 || outcome_.error == ENOSPC)) {
      outcome_.error = error;
    }
    --left_;
  }

  Outcome Await() {
    absl::MutexLock lock(&lock_);
    lock_.Await(absl::Condition(
        +[](size_t* left) { return *left == 0; }, &left_));
    return outcome_;
  }

 private:
  Counter& Bytes(NbdRequest::Kind kind) const {
    return kind == NbdRequest::Kind::kRead ? counters_.bytes_read : counters_.bytes_written;
  }

  NbdStoreCounters& counters_;
  absl::Mutex lock_;
  size_t left_ ABSL_GUARDED_BY(lock_);
  Outcome outcome_ ABSL_GUARDED_BY(lock_);
};

// ---------------------------------------------------------------------------------------------------------------------
// Trims
// ---------------------------------------------------------------------------------------------------------------------

NbdRequest* NbdTrims::Begin(ByteCount offset, ByteCount length) {
  absl::MutexLock lock(&lock_);
  if (under_way_.size() >= kMaxTrims) return nullptr;
  under_way_.push_back(
      NbdRequest{.kind = NbdRequest::Kind::kTrim, .offset = offset, .length = length, .completion = this});
  return &under_way_.back();
}

void NbdTrims::AwaitNone(absl::Span<const BackingStore::Transfer> transfers) {
  absl::MutexLock lock(&lock_);
  const auto none = [this, transfers]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return !Touches(transfers); };
  lock_.Await(absl::Condition(&none));
}

bool NbdTrims::Touches(absl::Span<const BackingStore::Transfer> transfers) const {
  return std::any_of(under_way_.begin(), under_way_.end(), [transfers](const NbdRequest& trim) {
    return std::any_of(transfers.begin(), transfers.end(), [&trim](const BackingStore::Transfer& transfer) {
      return transfer.offset < trim.offset + trim.length &&
             trim.offset < transfer.offset + ByteCount::Bytes(transfer.bytes.size());
    });
  });
}

void NbdTrims::Done(NbdRequest& request, int error) {
  (error == 0 ? counters_.trims_done : counters_.trims_failed).Add();
  absl::MutexLock lock(&lock_);
  under_way_.remove_if([&request](const NbdRequest& trim) { return &trim == &request; });
}

// ---------------------------------------------------------------------------------------------------------------------
// The link
// ---------------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<NbdStore>> NbdStore::Open(const NbdStoreOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  absl::StatusOr<const NbdLibrary*> nbd = LoadNbdLibrary();
  if (!nbd.ok()) return nbd.status();
  UniqueFd wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd stop_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd.valid() || !stop_fd.valid()) return absl::ErrnoToStatus(errno, "cannot make an eventfd");

  auto store = absl::WrapUnique(new NbdStore(**nbd, options, std::move(wake_fd), std::move(stop_fd)));
  if (absl::Status status = store->Connect(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("cannot open ", store->description(), ": ", status.message()));
  }
  store->thread_ = std::thread([raw = store.get()] { raw->Run(); });
  return store;
}

NbdStore::NbdStore(const NbdLibrary& nbd, NbdStoreOptions options, UniqueFd wake_fd, UniqueFd stop_fd)
    : nbd_(nbd),
      options_(std::move(options)),
      wake_fd_(std::move(wake_fd)),
      stop_fd_(std::move(stop_fd)),
      backoff_(options_.min_backoff) {
  for (int i = 0; i < options_.connections; ++i) {
    connections_.push_back(std::make_unique<NbdConnection>(nbd_, options_.uri));
  }
}

NbdStore::~NbdStore() {
  Cancel();
  if (thread_.joinable()) thread_.join();
}

void NbdStore::Cancel() {
  {
    absl::MutexLock lock(&lock_);
    link_ = Link::kCancelled;
    why_ = "its use was ended";
  }
  Signal(stop_fd_);
}

bool NbdStore::stopping() const {
  absl::MutexLock lock(&lock_);
  return link_ == Link::kCancelled;
}

absl::Status NbdStore::Connect() {
  absl::StatusOr<NbdExport> made = ConnectAll();
  if (!made.ok()) return made.status();
  maximum_payload_ = made->maximum_payload.in_bytes() / kAlignment * kAlignment;
  can_trim_ = made->can_trim;
  up_since_ = RealClock().Now();

  absl::MutexLock lock(&lock_);
  if (links_made_ == 0) size_ = ByteCount::Bytes(made->size.in_bytes() / kAlignment * kAlignment);
  if (link_ != Link::kCancelled) link_ = Link::kUp;
  ++links_made_;
  return absl::OkStatus();
}

absl::StatusOr<NbdExport> NbdStore::ConnectAll() {
  absl::StatusOr<NbdExport> first = connections_[0]->Open(options_.request_timeout, stop_fd_.get());
  if (!first.ok()) {
    return absl::Status(first.status().code(),
                        absl::StrCat(first.status().message(), ". Is a server running there, and has it this export?"));
  }
  if (absl::Status status = CheckUsable(*first); !status.ok()) return status;
  size_t open = 1;
  while (first->multi_conn && open < connections_.size()) {
    absl::StatusOr<NbdExport> more = connections_[open]->Open(options_.request_timeout, stop_fd_.get());
    if (!more.ok()) break;
    if (more->size != first->size) return absl::UnavailableError("its connections do not agree on its size");
    ++open;
  }
  active_ = open;
  return first;
}

absl::Status NbdStore::CheckUsable(const NbdExport& made) const {
  // At first what the user asks for; then what has been promised.
  const ByteCount least = std::max(size_, options_.minimum_size);
  if (made.size < least) {
    const std::string sizes = absl::StrCat("it has ", made.size.in_bytes(), " bytes");
    if (size_ != ByteCount()) return absl::DataLossError(absl::StrCat(sizes, ", and had ", size_.in_bytes()));
    return absl::FailedPreconditionError(
        absl::StrCat(sizes, ", and ", least.in_bytes(), " are the least that is of use"));
  }
  if (made.read_only) {
    return absl::FailedPreconditionError("it is read-only. Let the server export it for writing");
  }
  if (made.minimum_block > ByteCount::Bytes(kAlignment)) {
    return absl::FailedPreconditionError(absl::StrCat("its server wants blocks of ", made.minimum_block.in_bytes(),
                                                      " bytes, and pages have ", kAlignment));
  }
  if (made.maximum_payload < ByteCount::Bytes(kAlignment)) {
    return absl::FailedPreconditionError(absl::StrCat("its server takes no more than ", made.maximum_payload.in_bytes(),
                                                      " bytes at once, and pages have ", kAlignment));
  }
  return absl::OkStatus();
}

void NbdStore::Run() {
  SetThreadName("nbd");
  while (!stopping()) {
    Link link;
    {
      absl::MutexLock lock(&lock_);
      link = link_;
    }
    if (link == Link::kUp) {
      Serve();
    } else if (link == Link::kAway) {
      Reconnect();
    } else {
      Pause(absl::Hours(1));
    }
  }
  for (auto& connection : connections_) connection->Close();
}

void NbdStore::Serve() {
  std::vector<pollfd> wait = {Readable(stop_fd_), Readable(wake_fd_)};
  for (size_t i = 0; i < active_; ++i) wait.push_back(connections_[i]->Poll());
  // Requests may be sent meanwhile, whose time runs too.
  if (Wait(absl::MakeSpan(wait), options_.request_timeout / 4) < 0) return;
  if (wait[1].revents != 0) Drain(wake_fd_);
  if (absl::Status status = DriveAll(absl::MakeSpan(wait).subspan(2)); !status.ok()) LoseLink(status);
}

absl::Status NbdStore::DriveAll(absl::Span<const pollfd> ready) {
  for (size_t i = 0; i < ready.size(); ++i) {
    absl::Status status = connections_[i]->Drive(ready[i].revents, options_.request_timeout);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// The state first: who learns of its request's end finds the link away, and not up to be tried again at once.
void NbdStore::LoseLink(const absl::Status& why) {
  counters_.links_lost.Add();
  const MonotonicTime now = RealClock().Now();
  // A server that takes connections and ends them again is not asked all the time.
  if (now - up_since_ > options_.max_backoff) backoff_ = options_.min_backoff;
  {
    absl::MutexLock lock(&lock_);
    if (link_ == Link::kUp) link_ = Link::kAway;
    away_since_ = now;
    if (link_ == Link::kAway) why_ = std::string(why.message());
  }
  for (auto& connection : connections_) connection->Close();
}

void NbdStore::Reconnect() {
  Pause(backoff_ * std::uniform_real_distribution<double>(0.5, 1.0)(random_));
  if (stopping()) return;
  backoff_ = std::min(backoff_ * 2, options_.max_backoff);
  const absl::Status status = Connect();
  if (status.ok()) {
    counters_.reconnects.Add();
    return;
  }
  counters_.reconnects_failed.Add();
  for (auto& connection : connections_) connection->Close();
  absl::MutexLock lock(&lock_);
  if (link_ != Link::kAway) return;
  if (absl::IsDataLoss(status)) link_ = Link::kFailed;
  why_ = std::string(status.message());
}

void NbdStore::Pause(absl::Duration time) {
  pollfd wait = Readable(stop_fd_);
  Wait(absl::MakeSpan(&wait, 1), time);
}

// ---------------------------------------------------------------------------------------------------------------------
// Transfers
// ---------------------------------------------------------------------------------------------------------------------

absl::Status NbdStore::RefusalLocked() const {
  switch (link_) {
    case Link::kUp:
      return absl::OkStatus();
    case Link::kFailed:
      return absl::DataLossError(absl::StrCat(description(), " came back as something else: ", why_,
                                              ". What was on it is lost to its guests"));
    case Link::kCancelled:
      return absl::UnavailableError(absl::StrCat(description(), " is not used any more: ", why_));
    case Link::kAway:
      break;
  }
  return absl::UnavailableError(absl::StrCat(description(), " has been away for ",
                                             absl::FormatDuration(RealClock().Now() - away_since_), " (", why_,
                                             "). Start its server again"));
}

absl::Status NbdStore::Write(absl::Span<const Transfer> transfers) {
  {
    absl::MutexLock lock(&lock_);
    if (link_ != Link::kUp) {
      counters_.writes_refused_away.Add();
      return RefusalLocked();
    }
  }
  trims_.AwaitNone(transfers);
  const Outcome outcome = Move(NbdRequest::Kind::kWrite, transfers);
  if (outcome.error == ENOSPC) {
    counters_.writes_refused_no_room.Add();
    return absl::ResourceExhaustedError(
        absl::StrCat(description(), " has no room where it was written to. Give its server more"));
  }
  if (outcome.error != 0) {
    counters_.writes_refused_error.Add();
    return absl::DataLossError(absl::StrCat(description(), " failed to write: the server answered ",
                                            strerror(outcome.error), ". Its log may say why"));
  }
  if (outcome.lost) {
    counters_.writes_refused_lost.Add();
    return absl::UnavailableError(absl::StrCat("the connection to ", description(), " was lost during a write"));
  }
  return absl::OkStatus();
}

absl::Status NbdStore::Read(absl::Span<const Transfer> transfers, IfAway if_away) {
  MonotonicTime deadline = if_away == IfAway::kFail ? RealClock().Now() : MonotonicTime();
  uint64_t link = 0;
  while (true) {
    absl::StatusOr<uint64_t> next = AwaitLink(link, deadline);
    if (!next.ok()) {
      counters_.reads_refused_away.Add();
      return next.status();
    }
    link = *next;
    const Outcome outcome = Move(NbdRequest::Kind::kRead, transfers);
    if (outcome.error != 0) {
      counters_.reads_refused_error.Add();
      return absl::DataLossError(absl::StrCat(description(), " failed to read: the server answered ",
                                              strerror(outcome.error), ". Its log may say why"));
    }
    if (!outcome.lost) return absl::OkStatus();
    counters_.reads_lost.Add();
  }
}

absl::StatusOr<uint64_t> NbdStore::AwaitLink(uint64_t after, MonotonicTime& deadline) {
  absl::MutexLock lock(&lock_);
  const auto decided = [this, after]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return link_ == Link::kFailed || link_ == Link::kCancelled || (link_ == Link::kUp && links_made_ > after);
  };
  if (!decided() || after != 0) {
    const MonotonicTime now = RealClock().Now();
    if (deadline == MonotonicTime()) deadline = now + options_.retry_for;
    const bool in_time = lock_.AwaitWithTimeout(absl::Condition(&decided), deadline - now) && now <= deadline;
    if (!in_time && link_ != Link::kFailed && link_ != Link::kCancelled) {
      return absl::UnavailableError(absl::StrCat("a read waited ", absl::FormatDuration(options_.retry_for), " for ",
                                                 description(), ", which was lost and did not come back to answer (",
                                                 why_, "). Start its server again, or let reads wait longer"));
    }
  }
  if (absl::Status refusal = RefusalLocked(); !refusal.ok()) return refusal;
  return links_made_;
}

NbdStore::Outcome NbdStore::Move(NbdRequest::Kind kind, absl::Span<const Transfer> transfers) {
  std::vector<NbdRequest> requests = Cut(kind, transfers);
  Batch batch(counters_, requests.size());
  (kind == NbdRequest::Kind::kRead ? counters_.read_requests : counters_.write_requests).Add(requests.size());
  for (NbdRequest& request : requests) {
    request.completion = &batch;
    Submit(request);
  }
  return batch.Await();
}

std::vector<NbdRequest> NbdStore::Cut(NbdRequest::Kind kind, absl::Span<const Transfer> transfers) const {
  const size_t most = maximum_payload_;
  std::vector<NbdRequest> requests;
  for (const Transfer& transfer : transfers) {
    QUIRE_CHECK(transfer.offset.in_bytes() % kAlignment == 0 && transfer.bytes.size() % kAlignment == 0);
    QUIRE_CHECK(transfer.offset + ByteCount::Bytes(transfer.bytes.size()) <= size_);
    for (size_t done = 0; done < transfer.bytes.size();) {
      const ByteCount offset = transfer.offset + ByteCount::Bytes(done);
      std::byte* const bytes = transfer.bytes.data() + done;
      NbdRequest* last = requests.empty() ? nullptr : &requests.back();
      const bool adjacent = last != nullptr && last->offset + last->length == offset &&
                            last->bytes + last->length.in_bytes() == bytes && last->length.in_bytes() < most;
      if (!adjacent) last = &requests.emplace_back(NbdRequest{.kind = kind, .offset = offset, .bytes = bytes});
      const size_t length = std::min<size_t>(transfer.bytes.size() - done, most - last->length.in_bytes());
      last->length += ByteCount::Bytes(length);
      done += length;
    }
  }
  return requests;
}

void NbdStore::Submit(NbdRequest& request) {
  const size_t connection = next_.fetch_add(1, std::memory_order_relaxed) % active_;
  if (connections_[connection]->Submit(request)) Signal(wake_fd_);
}

void NbdStore::Discard(ByteCount offset, ByteCount length) {
  bool up;
  {
    absl::MutexLock lock(&lock_);
    up = link_ == Link::kUp;
  }
  while (length > ByteCount()) {
    const ByteCount piece = std::min(length, kMaxTrim);
    NbdRequest* const request = up && can_trim_ ? trims_.Begin(offset, piece) : nullptr;
    if (request != nullptr) {
      counters_.trim_requests.Add();
      Submit(*request);
    } else {
      counters_.trims_skipped.Add();
    }
    offset += piece;
    length = length - piece;
  }
}

}  // namespace quire
