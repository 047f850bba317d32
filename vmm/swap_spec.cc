#include "vmm/swap_spec.h"

#include <sys/stat.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "guest/swap/file_store.h"
#include "guest/swap/nbd_store.h"
#include "guest/swap/swap_area.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr absl::string_view kFile = "file:";
constexpr absl::string_view kNbd = "nbd:";
constexpr size_t kMostStores = 16;

absl::Status Bad(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "--swap=", text, " ", why, ": write file:PATH, file:PATH:SIZE or nbd:URI, such as file:/var/tmp:4G"));
}

// Where the store that `text` begins with ends.
size_t EndOfFirst(absl::string_view text) {
  for (size_t comma = text.find(','); comma != absl::string_view::npos; comma = text.find(',', comma + 1)) {
    const absl::string_view rest = text.substr(comma + 1);
    if (absl::StartsWith(rest, kFile) || absl::StartsWith(rest, kNbd)) return comma;
  }
  return text.size();
}

absl::StatusOr<SwapSpec> ParseFile(absl::string_view text, absl::string_view whole) {
  SwapSpec spec{.kind = SwapSpec::Kind::kFile};
  const size_t colon = text.rfind(':');
  if (colon != absl::string_view::npos) {
    spec.size = ParseSize(text.substr(colon + 1));
    if (spec.size.has_value()) text = text.substr(0, colon);
  }
  if (text.empty()) return Bad(whole, "names no file");
  if (spec.size.has_value() && (!spec.size->page_aligned() || spec.size->in_bytes() < SwapArea::kLeastBytes)) {
    return Bad(whole, absl::StrCat("has a size that is not a multiple of 4096 bytes, or less than ",
                                   FormatSize(ByteCount::Bytes(SwapArea::kLeastBytes))));
  }
  spec.where = std::string(text);
  return spec;
}

absl::StatusOr<SwapSpec> ParseOne(absl::string_view text, absl::string_view whole) {
  if (absl::ConsumePrefix(&text, kFile)) return ParseFile(text, whole);
  if (!absl::ConsumePrefix(&text, kNbd)) return Bad(whole, "does not begin with the kind of a store");
  // The URI as it is known elsewhere, or what follows its scheme.
  if (text.empty() || text == "//") return Bad(whole, "names no server");
  const bool has_scheme = absl::StrContains(text, "://");
  return SwapSpec{.kind = SwapSpec::Kind::kNbd, .where = absl::StrCat(has_scheme ? "" : kNbd, text)};
}

// Whether the file knows no size of its own: a directory, nothing yet, or empty.
bool NeedsSize(const std::string& path) {
  struct stat file;
  return stat(path.c_str(), &file) != 0 || S_ISDIR(file.st_mode) || (S_ISREG(file.st_mode) && file.st_size == 0);
}

template <class Store>
absl::StatusOr<std::unique_ptr<BackingStore>> AsBackingStore(absl::StatusOr<std::unique_ptr<Store>> store) {
  if (!store.ok()) return store.status();
  return std::unique_ptr<BackingStore>(*std::move(store));
}

absl::StatusOr<std::unique_ptr<BackingStore>> OpenOne(const SwapSpec& spec, ByteCount size, absl::Duration retry_for) {
  if (spec.kind == SwapSpec::Kind::kNbd) {
    return AsBackingStore(NbdStore::Open({.uri = spec.where, .retry_for = retry_for}));
  }
  const ByteCount own = spec.size.value_or(NeedsSize(spec.where) ? size : ByteCount());
  return AsBackingStore(FileStore::Open({.path = spec.where, .size = own}));
}

}  // namespace

absl::StatusOr<std::vector<SwapSpec>> ParseSwap(absl::string_view text) {
  std::vector<SwapSpec> specs;
  for (absl::string_view rest = text;;) {
    const size_t end = EndOfFirst(rest);
    absl::StatusOr<SwapSpec> spec = ParseOne(rest.substr(0, end), text);
    if (!spec.ok()) return spec.status();
    specs.push_back(*std::move(spec));
    if (specs.size() > kMostStores) return Bad(text, absl::StrCat("names more than ", kMostStores, " stores"));
    if (end == rest.size()) return specs;
    rest = rest.substr(end + 1);
  }
}

absl::StatusOr<std::vector<std::unique_ptr<BackingStore>>> OpenSwap(const std::vector<SwapSpec>& specs, ByteCount size,
                                                                    absl::Duration retry_for) {
  std::vector<std::unique_ptr<BackingStore>> stores;
  for (const SwapSpec& spec : specs) {
    absl::StatusOr<std::unique_ptr<BackingStore>> store = OpenOne(spec, size, retry_for);
    if (!store.ok()) return store.status();
    if ((*store)->size().in_bytes() < SwapArea::kLeastBytes) {
      return absl::InvalidArgumentError(absl::StrCat((*store)->description(), " has room for ",
                                                     FormatSize((*store)->size()), ": it takes at least ",
                                                     FormatSize(ByteCount::Bytes(SwapArea::kLeastBytes))));
    }
    stores.push_back(*std::move(store));
  }
  return stores;
}

}  // namespace quire
