#pragma once
// From the configuration to objects: the literal tables between the schema's names and the library's.

#include <memory>

#include "configs/run_config.pb.h"
#include "core/dtype.h"
#include "core/optim/schedule.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "models/language_model.h"

namespace spanwise {

// Only for configs without config_problems.
DType compute_dtype(const config::RunConfig& config);
std::unique_ptr<Tokenizer> make_tokenizer(const config::TokenizerConfig& tokenizer);
LanguageModelOptions language_model_options(const config::RunConfig& config, int64_t vocab_size);
Schedule schedule_of(const config::RunConfig& config);
LoaderOptions loader_options(const config::RunConfig& config, int64_t vocab_size);

}  // namespace spanwise
