#include "vmm/libvirt/manage/originals.h"

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "nlohmann/json.hpp"
#include "vmm/baseline/setting.h"
#include "vmm/libvirt/manage/host_view.h"
#include "vmm/text.h"

namespace quire {
namespace {

using Json = nlohmann::json;
using Kind = Original::Kind;

constexpr std::pair<Kind, absl::string_view> kNames[] = {
    {Kind::kBalloon, "balloon"},
    {Kind::kSoftLimit, "soft_limit"},
    {Kind::kStatsPeriod, "stats_period"},
    {Kind::kKsmPages, "ksm_pages_to_scan"},
    {Kind::kKsmSleep, "ksm_sleep_millisecs"},
    {Kind::kKsmRun, "ksm_run"},
};

bool IsOfDomain(Kind kind) { return kind == Kind::kBalloon || kind == Kind::kSoftLimit || kind == Kind::kStatsPeriod; }

absl::string_view NameOf(Kind kind) {
  return std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return n.first == kind; })->second;
}

// A file's name for a host: its address, in letters that are no trouble in paths.
std::string FileFor(const std::string& uri) {
  std::string name = "managed-domains.";
  for (const char c : uri) name += absl::ascii_isalnum(c) || c == '.' || c == '-' ? c : '_';
  return name;
}

// Journals are not to grow for ever with domains that come and go.
constexpr size_t kManyLines = 64;

}  // namespace

std::string ToLine(const Original& original) {
  Json json = {{"undo", std::string(NameOf(original.kind))}, {"value", original.value}};
  if (IsOfDomain(original.kind)) {
    json["domain"] = original.domain;
    json["id"] = original.id;
    json["name"] = original.name;
  }
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

absl::StatusOr<Original> ParseOriginal(absl::string_view line) {
  const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  const auto text = [&](const char* key) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    return json.is_object() && found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const auto number = [&](const char* key) -> std::optional<uint64_t> {
    if (!json.is_object()) return std::nullopt;
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_unsigned()) return std::nullopt;
    return found->get<uint64_t>();
  };
  const std::string undo = text("undo");
  for (const auto& [kind, name] : kNames) {
    if (undo != name || !number("value")) continue;
    Original original = {.kind = kind, .value = *number("value")};
    if (!IsOfDomain(kind)) return original;
    const std::optional<uint64_t> id = number("id");
    original.domain = text("domain");
    original.name = text("name");
    if (original.domain.empty() || !id || *id > std::numeric_limits<int>::max()) break;
    original.id = static_cast<int>(*id);
    return original;
  }
  return absl::InvalidArgumentError(absl::StrCat("this does not say how a domain was: ", line));
}

std::string Describe(const Original& original) {
  const std::string size = FormatSize(ByteCount::Bytes(original.value << 10));
  switch (original.kind) {
    case Kind::kBalloon:
      return absl::StrCat(original.name, " has ", size);
    case Kind::kSoftLimit:
      return original.value == 0 ? absl::StrCat(original.name, " has no soft limit")
                                 : absl::StrCat(original.name, " has a soft limit of ", size);
    case Kind::kStatsPeriod:
      return absl::StrCat(original.name, " is asked for statistics ",
                          original.value == 0 ? "never" : absl::StrCat("every ", original.value, " s"));
    case Kind::kKsmPages:
      return absl::StrCat("ksmd scans ", original.value, " pages at a time");
    case Kind::kKsmSleep:
      return absl::StrCat("ksmd sleeps for ", original.value, " ms");
    case Kind::kKsmRun:
      return absl::StrCat(kKsmRun, " is ", original.value);
  }
  return "";
}

absl::Status PutBack(const Original& original, LibvirtConnection& host, const std::string& root) {
  const ByteCount size = ByteCount::Bytes(original.value << 10);
  if (original.kind == Kind::kKsmPages) return host.SetNodeKsm({.pages_to_scan = original.value});
  if (original.kind == Kind::kKsmRun) return WriteSetting(absl::StrCat(root, kKsmRun), absl::StrCat(original.value));
  if (original.kind == Kind::kKsmSleep) return host.SetNodeKsm({.sleep_millisecs = original.value});
  const absl::StatusOr<DomainSummary> domain = host.Domain(original.domain);
  if (absl::IsNotFound(domain.status()) || (domain.ok() && domain->id != original.id)) return absl::OkStatus();
  if (!domain.ok()) return domain.status();
  switch (original.kind) {
    case Kind::kBalloon:
      return host.SetMemory(original.domain, size);
    case Kind::kSoftLimit:
      return original.value == 0 ? host.RemoveSoftLimit(original.domain)
                                 : host.SetMemoryTune(original.domain, {.soft_limit = size});
    default:
      return host.SetMemoryStatsPeriod(original.domain, static_cast<int>(std::min<uint64_t>(original.value, 86400)));
  }
}

absl::StatusOr<Originals> Originals::Open(const std::string& directory, const std::string& uri) {
  const absl::StatusOr<UniqueFd> lock = LockJournals(directory);
  if (!lock.ok()) return lock.status();
  const std::string path = absl::StrCat(directory, "/", FileFor(uri));
  absl::StatusOr<UniqueFd> left = OpenLeftBehind(path, "another quire manage is at work on this host: end it first");
  if (!left.ok()) return left.status();
  if (!left->valid()) {
    absl::StatusOr<JournalFile> file = JournalFile::Create(path);
    if (!file.ok()) return file.status();
    return Originals(*std::move(file), directory);
  }
  Originals originals(JournalFile::Read(*std::move(left), path), directory);
  originals.left_by_ = originals.file_.process();
  for (const std::string& line : originals.file_.lines()) {
    if (absl::StatusOr<Original> original = ParseOriginal(line); original.ok()) {
      originals.records_.push_back(*std::move(original));
    }
  }
  // From now on it is this process's, without lines that say nothing.
  std::vector<std::string> lines;
  for (const Original& original : originals.records_) lines.push_back(ToLine(original));
  if (absl::Status status = originals.file_.Rewrite(lines); !status.ok()) return status;
  return originals;
}

absl::Status Originals::Remember(const Original& original) {
  if (Find(original.kind, original.domain, original.id) != nullptr) return absl::OkStatus();
  if (absl::Status status = file_.Add(ToLine(original)); !status.ok()) return status;
  records_.push_back(original);
  return absl::OkStatus();
}

void Originals::Forget(const Original& original) {
  if (records_.empty() || !(records_.back() == original)) return;
  records_.pop_back();
  (void)file_.Keep(records_.size());
}

void Originals::Keep(const std::vector<DomainSummary>& domains) {
  if (records_.size() < kManyLines) return;
  const auto gone = [&](const Original& original) {
    return IsOfDomain(original.kind) && std::none_of(domains.begin(), domains.end(), [&](const DomainSummary& domain) {
             return domain.uuid == original.domain && domain.id == original.id;
           });
  };
  std::vector<Original> kept;
  std::vector<std::string> lines;
  for (const Original& original : records_) {
    if (gone(original)) continue;
    kept.push_back(original);
    lines.push_back(ToLine(original));
  }
  if (kept.size() > records_.size() / 2) return;  // not worth it
  const absl::StatusOr<UniqueFd> lock = LockJournals(directory_);
  if (lock.ok() && file_.Rewrite(lines).ok()) records_ = std::move(kept);
}

const Original* Originals::Find(Original::Kind kind, absl::string_view domain, int id) const {
  for (const Original& original : records_) {
    if (original.kind == kind && original.domain == domain && original.id == id) return &original;
  }
  return nullptr;
}

absl::Status Originals::PutBackAll(LibvirtConnection& host, const std::string& root,
                                   const std::function<void(const std::string&)>& say) {
  while (!records_.empty()) {
    const absl::Status status = PutBack(records_.back(), host, root);
    if (absl::IsUnavailable(status)) return status;
    if (!status.ok()) {
      say(absl::StrCat("what was changed cannot be put back, and stays until somebody sees to it that ",
                       Describe(records_.back()), ": ", status.message()));
    }
    records_.pop_back();
    if (absl::Status kept = file_.Keep(records_.size()); !kept.ok()) say(std::string(kept.message()));
  }
  return absl::OkStatus();
}

}  // namespace quire
