#include "vmm/experiment/plan.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"

namespace quire {
namespace {

// The point without the engine.
std::string PlaceOf(const Variant& variant) {
  std::string place;
  for (const auto& [name, value] : variant.point) {
    if (name != "engine") absl::StrAppend(&place, name, "=", ValueText(value), " ");
  }
  return place;
}

}  // namespace

std::string PlannedRun::name() const {
  std::string name;
  for (const auto& [axis, value] : variant->point) absl::StrAppend(&name, axis, "=", ValueText(value), " ");
  return absl::StrCat(name, "repetition=", repetition);
}

std::vector<RunGroup> PlanRuns(const Experiment& experiment) {
  std::vector<std::vector<const Variant*>> places;
  std::map<std::string, size_t> number;
  for (const Variant& variant : experiment.variants) {
    const auto [found, added] = number.emplace(PlaceOf(variant), places.size());
    if (added) places.emplace_back();
    places[found->second].push_back(&variant);
  }
  std::vector<RunGroup> groups;
  for (int repetition = 1; repetition <= experiment.repetitions; ++repetition) {
    for (const std::vector<const Variant*>& variants : places) {
      RunGroup group;
      for (size_t i = 0; i < variants.size(); ++i) {
        const Variant* const variant = variants[(i + static_cast<size_t>(repetition) - 1) % variants.size()];
        group.push_back({.variant = variant,
                         .repetition = repetition,
                         .seed = variant->options.seed + static_cast<uint64_t>(repetition) - 1});
      }
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

}  // namespace quire
